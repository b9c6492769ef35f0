// The keys and values of a context in spans of 32 positions, and who sees them.

#pragma once

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels.h"
#include "kv_formats.h"
#include "own_blocks.h"
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

// What one request stores for one kv head of the job's layer, as a query sees it whose own block begins at `own` (see
// `own_start`).
class Context {
  public:
    Context(const Attention &job, int32_t request, int32_t kv_head, int64_t own)
        : group_(*job.group), row_(group_), blocks_(group_.block_tables + int64_t(request) * group_.max_blocks), own_(own) {
        const int64_t segment = row_.segment_bytes(group_.block_tokens);
        keys_ = (int64_t(job.layer) * 2 * group_.num_kv_heads + kv_head) * segment;
        values_ = keys_ + group_.num_kv_heads * segment;
        scales_ = group_.block_tokens * row_.value_bytes;
        if ((group_.block_tokens & (group_.block_tokens - 1)) == 0) shift_ = std::countr_zero(uint32_t(group_.block_tokens));
        end_ = std::min<int64_t>(group_.lengths[request], int64_t(group_.max_blocks) * group_.block_tokens);
        if (!group_.open) return;
        const OwnBlocks blocks(group_, request, job.layer);
        own_keys_ = blocks.keys(own, kv_head);
        own_values_ = blocks.values(own, kv_head);
    }

    // A position's row as it is stored, and its scales.
    const uint8_t *key(int64_t position) const { return stored(position, keys_, row_.value_bytes); }
    const uint8_t *value(int64_t position) const { return stored(position, values_, row_.value_bytes); }
    const uint8_t *key_scales(int64_t position) const { return stored(position, keys_ + scales_, row_.scale_bytes); }
    const uint8_t *value_scales(int64_t position) const { return stored(position, values_ + scales_, row_.scale_bytes); }

    bool is_own(int64_t position) const { return position >= own_; }
    const tiercel_group &group() const { return group_; }

    // Keys and values of the span of 32 positions in bf16, if they lie so in memory.
    bool in_place(int64_t first, const uint16_t *&keys, const uint16_t *&values) const {
        if (is_own(first)) {
            keys = own_keys_ + (first - own_) * group_.head_dim;
            values = own_values_ + (first - own_) * group_.head_dim;
            return true;
        }
        if (group_.kv_format != TIERCEL_KV_BF16 || block_of(first) != block_of(first + kSpan - 1)) return false;
        keys = reinterpret_cast<const uint16_t *>(key(first));
        values = reinterpret_cast<const uint16_t *>(value(first));
        return true;
    }

    // Keys and values of `count` positions within a span to bf16 [count][head_dim].
    void copy(int64_t first, int64_t count, uint16_t *keys, uint16_t *values) const {
        const int64_t size = group_.head_dim;
        if (is_own(first)) {
            std::memcpy(keys, own_keys_ + (first - own_) * size, count * size * sizeof(uint16_t));
            std::memcpy(values, own_values_ + (first - own_) * size, count * size * sizeof(uint16_t));
            return;
        }
        for (int64_t end = first + count; first < end;) {
            const int64_t rows = std::min(end, (block_of(first) + 1) * group_.block_tokens) - first;
            decode_rows(group_, key(first), key_scales(first), rows, keys);
            decode_rows(group_, value(first), value_scales(first), rows, values);
            first += rows, keys += rows * size, values += rows * size;
        }
    }

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

  private:
    const uint8_t *stored(int64_t position, int64_t part, int64_t bytes) const {
        const int64_t block = block_of(position), offset = position - block * group_.block_tokens;
        return group_.arena + blocks_[block] * group_.block_bytes + part + offset * bytes;
    }

    // Blocks have a power of two of tokens, mostly: a division would cost as much as some products.
    int64_t block_of(int64_t position) const { return shift_ >= 0 ? position >> shift_ : position / group_.block_tokens; }

    const tiercel_group &group_;
    KVRow row_;
    const int32_t *blocks_;
    int64_t own_;
    const uint16_t *own_keys_ = nullptr, *own_values_ = nullptr;
    int shift_ = -1;
    int64_t keys_, values_, scales_, end_;  // bytes: the segments' places in a block, the scales' in a segment
};

// Where the own block of a query at `position` begins: from there on it reads what has not been stored yet.
inline int64_t own_start(const tiercel_group &group, int64_t position) {
    return group.open ? position / OwnBlocks::kTokens * OwnBlocks::kTokens : INT64_MAX;
}

// Memory that is read next, asked for line by line while something else is computed: the processor cannot foresee where a table
// points. Runs are asked for four at a time, side by side: memory answers sooner than to one run after the other.
class Ahead {
  public:
    // Whether more should be added now: up to a split's keys and values. Much more would not stay in the cache, since blocks
    // that lie a large power of two apart share few places there.
    bool wants() const { return last_ - first_ < kEnough; }
    void add(const void *memory, int64_t bytes) { run_[last_++ % kRuns] = {static_cast<const char *>(memory), bytes}; }

    // 4 * count lines.
    template <int count> void lines() {
        for (int i = 0; i < count; i++) {
            if (at_ >= group_bytes_ && !start()) return;
            for (const char *memory : group_) _mm_prefetch(memory + at_, _MM_HINT_T1);
            at_ += 64;
        }
    }

  private:
    static constexpr int kEnough = kSpans, kRuns = 8 * kSpans, kGroup = 4;

    struct Run {
        const char *memory;
        int64_t bytes;
    };

    // The next group, as long as its longest run; the last one stands for those that are missing.
    bool start() {
        if (first_ == last_) return false;
        group_bytes_ = 0;
        for (const char *&memory : group_) {
            const Run &run = run_[(first_ < last_ ? first_++ : first_ - 1) % kRuns];
            memory = run.memory;
            group_bytes_ = std::max(group_bytes_, run.bytes);
        }
        at_ = 0;
        return true;
    }

    Run run_[kRuns];
    const char *group_[kGroup];
    uint32_t first_ = 0, last_ = 0;         // runs still to come, modulo kRuns
    int64_t group_bytes_ = 0, at_ = 0;      // within the group
};

// 32 positions of a context. width: head_dim, rounded up to a multiple of 32; what is added is zero.
struct Span {
    const uint16_t *keys, *values;  // bf16 [32, width]
    int64_t first;
    int column;        // first, from the split's beginning
    uint32_t present;
    bool whole;  // every row sees every position
};

// The span as it lies in memory, or, where that will not do, copied: rows of `seen` positions only, zeros elsewhere. Memory that
// nobody sees may never have been written and hold anything, and 0 * nan is not 0.
inline void place_span(const Context &context, int head_dim, int width, uint32_t seen, uint16_t *copy, Span &span) {
    if (seen == ~0u && width == head_dim && context.in_place(span.first, span.keys, span.values)) return;
    uint16_t *values = copy + kSpan * width;
    span.keys = copy;
    span.values = values;
    if (seen != ~0u || width != head_dim) std::memset(copy, 0, sizeof(uint16_t) * 2 * kSpan * width);
    for (int i = 0; i < kSpan;) {
        const uint32_t rest = seen >> i;
        if (!(rest & 1)) {
            i++;
            continue;
        }
        const int count = width == head_dim ? std::countr_one(rest) : 1;
        context.copy(span.first + i, count, copy + i * width, values + i * width);
        i += count;
    }
}

}  // namespace tiercel::TIERCEL_LEVEL
