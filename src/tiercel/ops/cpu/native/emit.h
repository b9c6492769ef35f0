// Writes a finished row in the forms that its readers want; the last step of every kernel that can be followed by a product.
//
// bf16: each value to nearest even; NaN stays NaN.
// q8, per group of 32 channels (the last filled up with zeros): scale = largest magnitude / 127, integers = x / scale to
// nearest even. A scale that would be smaller than the smallest normal float32 is 0, with zeros as integers: the group is zero.
// A group that holds an infinity or NaN has a NaN scale and zeros as integers: whatever is computed from it is NaN.
// i8: see quantise_row.h. It takes whole rows.

#pragma once

#include <bit>
#include <cfloat>
#include <cstring>

#include "activations.h"
#include "kernels.h"
#include "quantise_row.h"
#include "simd.h"

namespace tiercel::TIERCEL_LEVEL {

// One group of 32 values, the group that begins at channel `at`.
inline void quantise_group(F32 a, F32 b, const Q8Row &row, int64_t at) {
    I32 bits_a = as_int(abs(a)), bits_b = as_int(abs(b));
    float magnitude = std::bit_cast<float>(largest(choose(less(bits_a, bits_b), bits_b, bits_a)));
    float scale = magnitude / 127.0f;
    bool finite = magnitude <= FLT_MAX;
    if (finite && scale >= FLT_MIN) {
        a = round(a / all(scale));
        b = round(b / all(scale));
    } else {
        scale = finite ? 0.0f : std::bit_cast<float>(0x7fc00000);
        a = b = zero();
    }
    int8_t *values = const_cast<int8_t *>(row.values) + at;
    int16_t *sums = const_cast<int16_t *>(row.sums) + at / 16;
    float sum_a = sum(a), sum_b = sum(b);  // exact: whole numbers far below 2^24
    store_s8(values, to_int(a));
    store_s8(values + kLanes, to_int(b));
    sums[0] = static_cast<int16_t>(sum_a);
    sums[1] = static_cast<int16_t>(sum_b);
    const_cast<float *>(row.scales)[at / 32] = scale;
    const_cast<float *>(row.scaled_sums)[at / 32] = scale * (sum_a + sum_b);
}

// Channels first .. last - 1 of row `index` of the result, in all forms but i8: whole groups of 32, but for the row's end.
// row: [channels] float32, which may be the result's own float32 row; nothing else of it is read.
inline void emit_part(const float *row, int64_t channels, int64_t first, int64_t last, int64_t index, const Result &out) {
    const int64_t whole = last / 32 * 32;
    float *f32 = out.f32 ? out.f32 + index * out.stride : nullptr;
    if (f32 == row) f32 = nullptr;
    const Bf16Rows bf16(out.bf16, out.rows, channels);
    uint8_t *q8 = out.q8 ? out.q8 + index * out.stride_q8 : nullptr;
    if (!f32 && !out.bf16 && !q8) return;

    auto group = [&](const float *from, int64_t at) {
        F32 a = load(from), b = load(from + kLanes);
        if (out.bf16) {
            uint16_t *to = bf16.at(index, at / 32);
            store_bf16(to, a);
            store_bf16(to + kLanes, b);
        }
        if (q8) quantise_group(a, b, Q8Row(q8, channels), at);
    };
    for (int64_t at = first; at < whole; at += 32) {
        group(row + at, at);
        if (f32) {
            store(f32 + at, load(row + at));
            store(f32 + at + kLanes, load(row + at + kLanes));
        }
    }
    if (whole == last) return;
    float tail[32] = {};
    for (int64_t at = whole; at < last; at++) {
        tail[at - whole] = row[at];
        if (f32) f32[at] = row[at];
    }
    group(tail, whole);
}

// The row's int8 form. spare: [padded_row(channels)], working memory; may be `row`.
inline void emit_i8(const float *row, int64_t channels, int64_t index, const Result &out, float *spare) {
    const I8Rows rows(out.i8, out.rows, channels);
    if (spare != row) std::memcpy(spare, row, channels * sizeof(float));
    int8_t *group = nullptr;
    I32 sums = all(0);
    rows.scales[index] = quantise_row(spare, channels, [&](int64_t at, I32 integers) {
        if (at % kRowGroup == 0) group = rows.at(index, at / kRowGroup);
        store_s8(group + at % kRowGroup, integers);
        sums = sums + integers;
    });
    alignas(64) int32_t lanes[kLanes];
    store(lanes, sums);
    int32_t sum = 0;
    for (int lane = 0; lane < kLanes; lane++) sum += lanes[lane];
    rows.sums[index] = sum;
}

// All of row `index` of the result. spare: as `emit_i8` wants it where the result has that form.
inline void emit(const float *row, int64_t channels, int64_t index, const Result &out, float *spare) {
    emit_part(row, channels, 0, channels, index, out);
    if (out.i8) emit_i8(row, channels, index, out, spare);
}

}  // namespace tiercel::TIERCEL_LEVEL
