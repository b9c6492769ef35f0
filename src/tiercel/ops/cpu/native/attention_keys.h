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

constexpr int kSplit = 128;  // positions that are summed on their own before they are merged
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

// Memory that is read next, asked for line by line while something else is computed: the processor cannot foresee where a table
// points. Runs are asked for four at a time, side by side: memory answers sooner than to one run after the other.
class Ahead {
  public:
    // Whether more should be added now, lest the processor wait. Much more than a split's keys and values would not stay in the
    // cache, since blocks that lie a large power of two apart share few places there.
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
    static constexpr int kEnough = 2 * kSpans, kRuns = 8 * kSpans, kGroup = 4;

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

// What one request stores for one kv head of the job's layer, as a query sees it whose own block begins at `own` (see
// `own_start`).
class Context {
  public:
    Context(const Attention &job, int32_t request, int32_t kv_head, int64_t own)
        : group_(*job.group), row_(group_), blocks_(group_.block_tables + int64_t(request) * group_.max_blocks),
          own_start_(own) {
        const int64_t segment = row_.segment_bytes(group_.block_tokens);
        segments_[kKeys] = (int64_t(job.layer) * 2 * group_.num_kv_heads + kv_head) * segment;
        segments_[kValues] = segments_[kKeys] + group_.num_kv_heads * segment;
        scales_ = group_.block_tokens * row_.value_bytes;
        if ((group_.block_tokens & (group_.block_tokens - 1)) == 0) shift_ = std::countr_zero(uint32_t(group_.block_tokens));
        end_ = std::min<int64_t>(group_.lengths[request], int64_t(group_.max_blocks) * group_.block_tokens);
        if (!group_.open) return;
        const OwnBlocks blocks(group_, request, job.layer);
        own_[kKeys] = blocks.keys(own, kv_head);
        own_[kValues] = blocks.values(own, kv_head);
    }

    // A position's row as it is stored, and its scales.
    const uint8_t *key(int64_t position) const { return stored(position, segments_[kKeys], row_.value_bytes); }
    const uint8_t *value(int64_t position) const { return stored(position, segments_[kValues], row_.value_bytes); }
    const uint8_t *key_scales(int64_t position) const {
        return stored(position, segments_[kKeys] + scales_, row_.scale_bytes);
    }
    const uint8_t *value_scales(int64_t position) const {
        return stored(position, segments_[kValues] + scales_, row_.scale_bytes);
    }

    bool is_own(int64_t position) const { return position >= own_start_; }
    const tiercel_group &group() const { return group_; }

    enum Kind { kKeys, kValues };

    // The span of 32 positions, if it lies in memory as bf16; otherwise null.
    const uint16_t *in_place(Kind kind, int64_t first) const {
        if (is_own(first)) return own_[kind] + (first - own_start_) * group_.head_dim;
        if (group_.kv_format != TIERCEL_KV_BF16 || block_of(first) != block_of(first + kSpan - 1)) return nullptr;
        return reinterpret_cast<const uint16_t *>(stored(first, segments_[kind], row_.value_bytes));
    }

    // `count` positions within a span to bf16 [count][head_dim].
    void copy(Kind kind, int64_t first, int64_t count, uint16_t *to, Ahead &ahead) const {
        const int64_t size = group_.head_dim, values = segments_[kind], scales = values + scales_;
        if (is_own(first)) {
            std::memcpy(to, own_[kind] + (first - own_start_) * size, count * size * sizeof(uint16_t));
            return;
        }
        for (int64_t end = first + count, rows; first < end; first += rows, to += rows * size) {
            rows = std::min({end, (block_of(first) + 1) * group_.block_tokens, first + kPiece}) - first;
            ahead.lines<1>();
            decode_rows(group_, stored(first, values, row_.value_bytes), stored(first, scales, row_.scale_bytes), rows, to);
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
    static constexpr int64_t kPiece = 8;  // rows that are decoded between two looks ahead

    const uint8_t *stored(int64_t position, int64_t part, int64_t bytes) const {
        const int64_t block = block_of(position), offset = position - block * group_.block_tokens;
        return group_.arena + blocks_[block] * group_.block_bytes + part + offset * bytes;
    }

    // Blocks have a power of two of tokens, mostly: a division would cost as much as some products.
    int64_t block_of(int64_t position) const { return shift_ >= 0 ? position >> shift_ : position / group_.block_tokens; }

    const tiercel_group &group_;
    KVRow row_;
    const int32_t *blocks_;
    int64_t own_start_;
    const uint16_t *own_[2] = {};
    int shift_ = -1;
    int64_t segments_[2], scales_;  // bytes: places of segments in a block, of scales in a segment
    int64_t end_;
};

// Where the own block of a query at `position` begins: from there on it reads what has not been stored yet.
inline int64_t own_start(const tiercel_group &group, int64_t position) {
    return group.open ? position / OwnBlocks::kTokens * OwnBlocks::kTokens : INT64_MAX;
}

// Keys or values of a span as bf16 [32][width]. What does not lie so in memory is copied when it is first used.
class Rows {
  public:
    Rows() = default;
    Rows(const Context &context, Context::Kind kind, int64_t first, int width, uint32_t seen, uint16_t *copy, Ahead &ahead)
        : context_(&context), ahead_(&ahead), kind_(kind), first_(first), width_(width), seen_(seen), copy_(copy) {
        if (whole()) rows_ = context.in_place(kind, first);
    }

    operator const uint16_t *() const {
        if (!rows_) fill();
        return rows_;
    }

  private:
    int head_dim() const { return context_->group().head_dim; }
    bool whole() const { return seen_ == ~0u && width_ == head_dim(); }

    // Rows that are not seen become zeros.
    void fill() const {
        if (!whole()) std::memset(copy_, 0, sizeof(uint16_t) * kSpan * width_);
        const int most = width_ == head_dim() ? kSpan : 1;
        for (int i = 0, count; i < kSpan; i += count) {
            const uint32_t rest = seen_ >> i;
            count = rest & 1 ? std::min(std::countr_one(rest), most) : 1;
            if (rest & 1) context_->copy(kind_, first_ + i, count, copy_ + i * width_, *ahead_);
        }
        rows_ = copy_;
    }

    const Context *context_ = nullptr;
    Ahead *ahead_ = nullptr;
    Context::Kind kind_ = Context::kKeys;
    int64_t first_ = 0;
    int width_ = 0;
    uint32_t seen_ = 0;
    uint16_t *copy_ = nullptr;
    mutable const uint16_t *rows_ = nullptr;
};

// 32 positions of a context. width: head_dim, rounded up to a multiple of 32; what is added is zero.
struct Span {
    Rows keys, values;
    int64_t first;
    int column;        // first, from the split's beginning
    uint32_t present;
    bool whole;  // every row sees every position
};

// seen: the positions that any row sees. Only they are read: memory that nobody sees may never have been written and hold
// anything, and 0 * nan is not 0. copy: room for keys and values.
inline void place_span(const Context &context, int width, uint32_t seen, uint16_t *copy, Span &span, Ahead &ahead) {
    span.keys = Rows(context, Context::kKeys, span.first, width, seen, copy, ahead);
    span.values = Rows(context, Context::kValues, span.first, width, seen, copy + kSpan * width, ahead);
}

}  // namespace tiercel::TIERCEL_LEVEL
