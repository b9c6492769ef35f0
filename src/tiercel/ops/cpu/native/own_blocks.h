// Where the 64 positions that a query shares a block with lie as they were before they were stored; see `tiercel_group`.

#pragma once

#include "api.h"

namespace tiercel {

// The own blocks of one request's rows in one layer. The rows' positions follow one another.
class OwnBlocks {
  public:
    static constexpr int64_t kTokens = 64;

    OwnBlocks(const tiercel_group &group, int32_t request, int32_t layer)
        : row_(group.query_start[request]), first_(group.q_positions[row_]), last_(first_), scratch_(group.open_scratch) {
        segment_ = kTokens * group.head_dim * int64_t(sizeof(uint16_t));
        values_ = group.num_kv_heads * segment_;
        const int32_t next_request = group.query_start[request + 1];
        if (next_request > row_) last_ = group.q_positions[next_request - 1];
        for (int end = 0; end < 2; end++) {
            open_[end] = group.open + group.open_blocks[2 * request + end] * group.open_block_bytes + layer * 2 * values_;
        }
    }

    // bf16 [64][head_dim] of the own block that holds `position`.
    uint16_t *keys(int64_t position, int64_t kv_head) const {
        return reinterpret_cast<uint16_t *>(block(position / kTokens) + kv_head * segment_);
    }
    uint16_t *values(int64_t position, int64_t kv_head) const {
        return reinterpret_cast<uint16_t *>(block(position / kTokens) + values_ + kv_head * segment_);
    }

  private:
    uint8_t *block(int64_t number) const {
        if (number == first_ / kTokens) return open_[0];
        if (number == last_ / kTokens) return open_[1];
        return scratch_ + (row_ + number * kTokens - first_) / kTokens * 2 * values_;
    }

    int64_t row_, first_, last_;  // the request's first row in the step, its position and that of the last one
    uint8_t *open_[2], *scratch_;
    int64_t segment_, values_;    // bytes: of a kv head's keys, of all keys
};

}  // namespace tiercel
