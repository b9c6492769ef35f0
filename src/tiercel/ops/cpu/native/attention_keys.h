// The keys and values of a context in spans of 32 positions, and who sees them.

#pragma once

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels.h"
#include "simd.h"

namespace tiercel::TIERCEL_LEVEL {

constexpr int kSplit = 256;  // positions that are summed on their own before they are merged
constexpr int kSpan = 32;    // positions of one product
constexpr int kSpans = kSplit / kSpan;

inline uint32_t below(int64_t count) { return count <= 0 ? 0 : count >= kSpan ? ~0u : (1u << count) - 1; }

// Which of the positions first .. first + 31 a row's mask hides. Positions past the mask are hidden.
inline uint32_t masked(const tiercel_group &group, int64_t row, int64_t first) {
    const uint8_t *mask = group.mask + row * group.mask_columns + first;
    const int64_t columns = std::clamp<int64_t>(group.mask_columns - first, 0, kSpan);
    uint32_t bits = ~below(columns);
    for (int64_t i = 0; i < columns; i++) bits |= uint32_t(mask[i] != 0) << i;
    return bits;
}

// Which of the positions first .. first + 31 a row sees, if they are there.
inline uint32_t visible(const Attention &job, int64_t row, int64_t first) {
    const int64_t end = job.group->q_positions[row] + int64_t(1);
    uint32_t bits = below(end - first);
    if (job.window > 0) bits &= ~below(end - job.window - first) | below(job.sink_tokens - first);
    if (job.group->mask) bits &= ~masked(*job.group, row, first);
    return bits;
}

// What one request stores for one kv head of the job's layer.
class Context {
  public:
    Context(const Attention &job, int32_t request, int32_t kv_head)
        : group_(*job.group), blocks_(group_.block_tables + int64_t(request) * group_.max_blocks) {
        const int64_t segment = int64_t(group_.block_tokens) * group_.head_dim * int64_t(sizeof(uint16_t));
        keys_ = (int64_t(job.layer) * 2 * group_.num_kv_heads + kv_head) * segment;
        values_ = keys_ + group_.num_kv_heads * segment;
        if ((group_.block_tokens & (group_.block_tokens - 1)) == 0) shift_ = std::countr_zero(uint32_t(group_.block_tokens));
        end_ = std::min<int64_t>(group_.lengths[request], int64_t(group_.max_blocks) * group_.block_tokens);
    }

    const uint16_t *key(int64_t position) const { return row(position, keys_); }
    const uint16_t *value(int64_t position) const { return row(position, values_); }

    // Which of the positions first .. first + 31 have a block.
    uint32_t present(int64_t first) const {
        uint32_t bits = below(end_ - first);
        for (int64_t at = first; at < std::min(first + kSpan, end_);) {
            const int64_t block = block_of(at), next = (block + 1) * group_.block_tokens;
            if (blocks_[block] < 0) bits &= ~(below(next - at) << (at - first));
            at = next;
        }
        return bits;
    }

    bool in_one_block(int64_t first) const {
        return block_of(first) == block_of(first + kSpan - 1);
    }

  private:
    const uint16_t *row(int64_t position, int64_t segment) const {
        const int64_t block = block_of(position), offset = position - block * group_.block_tokens;
        const uint8_t *run = group_.arena + blocks_[block] * group_.block_bytes + segment;
        return reinterpret_cast<const uint16_t *>(run) + offset * group_.head_dim;
    }

    // Blocks have a power of two of tokens, mostly: a division would cost as much as some products.
    int64_t block_of(int64_t position) const { return shift_ >= 0 ? position >> shift_ : position / group_.block_tokens; }

    const tiercel_group &group_;
    const int32_t *blocks_;
    int shift_ = -1;
    int64_t keys_, values_, end_;
};

// Memory that is read next, asked for line by line while something else is computed: the processor cannot foresee where a table
// points. Runs are asked for four at a time, side by side: memory answers sooner than to one run after the other.
class Ahead {
  public:
    explicit Ahead(int64_t run_bytes) : run_bytes_(run_bytes), at_(run_bytes) {}

    // Whether more should be added now: up to a split's keys and values. Much more would not stay in the cache, since blocks
    // that lie a large power of two apart share few places there.
    bool wants() const { return last_ - first_ < kEnough; }
    void add(const void *run) { run_[last_++ % kRuns] = static_cast<const char *>(run); }

    // 4 * count lines.
    template <int count> void lines() {
        for (int i = 0; i < count; i++) {
            if (at_ >= run_bytes_ && !start()) return;
            for (const char *run : group_) _mm_prefetch(run + at_, _MM_HINT_T1);
            at_ += 64;
        }
    }

  private:
    static constexpr int kEnough = kSpans, kRuns = 4 * kSpans, kGroup = 4;

    // The next group; the last run stands for those that are missing.
    bool start() {
        if (first_ == last_) return false;
        for (const char *&run : group_) run = run_[(first_ < last_ ? first_++ : first_ - 1) % kRuns];
        at_ = 0;
        return true;
    }

    const char *run_[kRuns], *group_[kGroup];
    uint32_t first_ = 0, last_ = 0;  // runs still to come, modulo kRuns
    int64_t run_bytes_, at_;         // within the group
};

// 32 positions of a context. width: head_dim, rounded up to a multiple of 32; what is added is zero.
struct Span {
    const uint16_t *keys, *values;  // bf16 [32, width]
    int64_t first;
    int column;        // first, from the split's beginning
    uint32_t present;
    bool whole;  // every row sees every position
};

// The span as it lies in the arena, or, where that will not do, copied: rows of `seen` positions only, zeros elsewhere. Memory
// that nobody sees may never have been written and hold anything, and 0 * nan is not 0.
inline void place_span(const Context &context, int head_dim, int width, uint32_t seen, uint16_t *copy, Span &span) {
    if (seen == ~0u && width == head_dim && context.in_one_block(span.first)) {
        span.keys = context.key(span.first);
        span.values = context.value(span.first);
        return;
    }
    span.keys = copy;
    span.values = copy + kSpan * width;
    std::memset(copy, 0, sizeof(uint16_t) * 2 * kSpan * width);
    for (int i = 0; i < kSpan; i++) {
        if (!(seen >> i & 1)) continue;
        std::memcpy(copy + i * width, context.key(span.first + i), sizeof(uint16_t) * head_dim);
        std::memcpy(copy + (kSpan + i) * width, context.value(span.first + i), sizeof(uint16_t) * head_dim);
    }
}

}  // namespace tiercel::TIERCEL_LEVEL
