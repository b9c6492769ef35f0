// Keys and values of a step's rows, rounded to bf16 (to nearest even), to their slots in the arena.

#include "kernels.h"
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

}  // namespace

void kv_write(const KVWrite &job, const Worker &worker) {
    const tiercel_group &group = *job.group;
    const int64_t size = group.head_dim, segment = group.block_tokens * size * int64_t(sizeof(uint16_t));
    int64_t first, last;
    worker.share(job.rows, first, last);
    for (int64_t row = first; row < last; row++) {
        const int64_t slot = group.slot_mapping[row];
        if (slot < 0) continue;
        const int64_t block = slot / group.block_tokens, offset = slot % group.block_tokens;
        uint8_t *keys = group.arena + block * group.block_bytes + int64_t(job.layer) * 2 * group.num_kv_heads * segment;
        uint8_t *values = keys + group.num_kv_heads * segment;
        for (int64_t head = 0; head < group.num_kv_heads; head++) {
            const int64_t place = head * segment + offset * size * int64_t(sizeof(uint16_t));
            round_row(job.k + row * job.stride_k + head * size, group.head_dim, reinterpret_cast<uint16_t *>(keys + place));
            round_row(job.v + row * job.stride_v + head * size, group.head_dim, reinterpret_cast<uint16_t *>(values + place));
        }
    }
}

}  // namespace tiercel::TIERCEL_LEVEL
