// Keys and values of a step's rows to their slots in the arena, in the group's format (kv_formats.h), and, where queries read
// their own block as it was before, in bf16 to that block as well. Rotated groups: each head's row is rotated first
// (`rotate_row`).

#include <algorithm>

#include "hadamard.h"
#include "kernels.h"
#include "kv_formats.h"
#include "own_blocks.h"
#include "simd.h"

namespace tiercel::TIERCEL_LEVEL {
namespace {

void round_row(const float *from, int32_t count, uint16_t *to) {
    int32_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store_bf16(to + i, load(from + i));
    if (i == count) return;
    float padded[kLanes] = {};
    uint16_t rounded[kLanes];
    for (int32_t j = i; j < count; j++) padded[j - i] = from[j];
    store_bf16(rounded, load(padded));
    for (int32_t j = i; j < count; j++) to[j] = rounded[j - i];
}

void encode(const tiercel_group &group, const float *row, uint8_t *values, uint8_t *scales) {
    switch (group.kv_format) {
        case TIERCEL_KV_INT8: encode_int8(row, group.head_dim, values, scales); break;
        case TIERCEL_KV_INT4:
            for (int64_t i = 0; i < group.head_dim; i += kRun) encode_int4_run(row + i, values + i / 2, scales + i / kRun * 2);
            break;
        default: round_row(row, group.head_dim, reinterpret_cast<uint16_t *>(values));
    }
}

constexpr int kLongestRotation = 512;

// One row of keys or values.
class Writer {
  public:
    explicit Writer(const tiercel_group &group)
        : group_(group), shape_(group), segment_(shape_.segment_bytes(group.block_tokens)) {}

    int64_t segment_bytes() const { return segment_; }

    // segments: those of all kv heads; offset: the token's place in them. own: bf16 [kv heads][64][head_dim] at the token's
    // place, or null.
    void write(const float *row, uint8_t *segments, int64_t offset, uint16_t *own) const {
        const int64_t size = group_.head_dim;
        for (int64_t head = 0; head < group_.num_kv_heads; head++) {
            const float *from = row + head * size;
            alignas(64) float rotated[kLongestRotation];
            if (group_.rotated) {
                std::copy(from, from + size, rotated);
                rotate_row(rotated, size);
                from = rotated;
            }
            uint8_t *segment = segments + head * segment_;
            encode(group_, from, segment + offset * shape_.value_bytes,
                   segment + group_.block_tokens * shape_.value_bytes + offset * shape_.scale_bytes);
            if (own) round_row(from, group_.head_dim, own + head * OwnBlocks::kTokens * size);
        }
    }

  private:
    const tiercel_group &group_;
    KVRow shape_;
    int64_t segment_;
};

}  // namespace

void kv_write(const KVWrite &job, const Worker &worker) {
    const tiercel_group &group = *job.group;
    const Writer writer(group);
    const int64_t kind = group.num_kv_heads * writer.segment_bytes();
    int64_t first, last;
    worker.share(job.rows, first, last);
    int32_t request = 0;
    for (int64_t row = first; row < last; row++) {
        const int64_t slot = group.slot_mapping[row];
        if (slot < 0) continue;
        const int64_t block = slot / group.block_tokens, offset = slot % group.block_tokens;
        uint8_t *keys = group.arena + block * group.block_bytes + int64_t(job.layer) * 2 * kind;
        uint16_t *own_keys = nullptr, *own_values = nullptr;
        if (group.open) {
            while (row >= group.query_start[request + 1]) request++;
            const OwnBlocks own(group, request, job.layer);
            const int64_t position = group.q_positions[row], place = position % OwnBlocks::kTokens * group.head_dim;
            own_keys = own.keys(position, 0) + place;
            own_values = own.values(position, 0) + place;
        }
        writer.write(job.k + row * job.stride_k, keys, offset, own_keys);
        writer.write(job.v + row * job.stride_v, keys + kind, offset, own_values);
    }
}

}  // namespace tiercel::TIERCEL_LEVEL
