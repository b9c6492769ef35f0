// Products by format. A call computes some panels of one part for all rows of the job; `linear.cpp` deals the panels out.

#pragma once

#include <algorithm>

#include "kernels.h"
#include "packing.h"
#include "simd.h"

namespace tiercel::TIERCEL_LEVEL {

// A run of panels of one part, and the rows of x that they are for. channel: where the first panel's results stand in the job's
// result and bias.
struct Panels {
    const tiercel_matrix &part;
    int64_t first, last;
    int64_t channel;
    int64_t first_row, last_row;

    const uint8_t *data(int64_t panel) const { return part.data + panel * panel_bytes(part.format, part.columns); }
    // Where a panel's results stand, and how many they are: fewer than 16 in a part's last panel.
    int64_t channel_of(int64_t panel) const { return channel + (panel - first) * kPanelRows; }
    int64_t channels_of(int64_t panel) const { return std::min<int64_t>(kPanelRows, part.rows - panel * kPanelRows); }
};

// Up to kFewRows rows, bf16 products only wait for memory; with more, x is read again and again, and long runs make up for it.
// Up to kChunkedRows, weights are read once for all rows; more than that are cut into blocks, whose x stays in a second-level
// cache whole or, where columns are many, by chunks.
constexpr int64_t kFewRows = 8, kChunkedRows = 64, kRowsOfBlock = 512;
// Many columns are more than a block's x has room for. Then it is read again for each run, and longer runs make up for it.
constexpr int64_t kManyColumns = 1024, kPairsOfRun = 8, kPairsOfLongRun = 16;  // pairs of panels, at most

void linear_bf16(const Linear &job, const Panels &panels, const Worker &worker);
void linear_int8(const Linear &job, const Panels &panels, const Worker &worker);       // I8
void linear_quantised(const Linear &job, const Panels &panels, const Worker &worker);  // any other format

// Stores the sums of `count` channels of one row: (sum + bias) + residual.
inline void finish(const Linear &job, int64_t row, int64_t channel, int64_t count, F32 sum) {
    float *out = job.out + row * job.stride + channel;
    const float *bias = job.bias ? job.bias + channel : nullptr;
    const float *residual = job.residual ? job.residual + row * job.stride_residual + channel : nullptr;
    if (count == kLanes) {
        if (bias) sum = sum + load(bias);
        if (residual) sum = sum + load(residual);
        store(out, sum);
        return;
    }
    float sums[kLanes];
    store(sums, sum);
    for (int64_t i = 0; i < count; i++) {
        float value = sums[i];
        if (bias) value += bias[i];
        if (residual) value += residual[i];
        out[i] = value;
    }
}

}  // namespace tiercel::TIERCEL_LEVEL
