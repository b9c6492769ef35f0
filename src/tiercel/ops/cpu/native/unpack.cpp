// Packed rows back to float32. A decode step needs one row of the embedding table: plain code, the same for every level.

#include "unpack.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "hadamard.h"
#include "packing.h"

namespace tiercel {
namespace {

// 32 columns of one row.
struct Run {
    const uint8_t *data;  // the panel's bytes of the group
    int64_t row;          // in the panel
    int64_t number;       // of the run in its group
};

float half(const uint8_t *table, int64_t row) {
    uint16_t bits;
    std::memcpy(&bits, table + 2 * row, 2);
    const uint32_t sign = uint32_t{bits & 0x8000u} << 16, rest = bits & 0x7fffu;
    if (rest >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    if (rest >= 0x0400) return std::bit_cast<float>(sign | ((rest << 13) + (112u << 23)));
    const float magnitude = static_cast<float>(rest) * 0x1p-24f;  // a denormal half is a normal float32
    return sign ? -magnitude : magnitude;
}

// Nibbles [4][16 rows][4]: columns 4j + i in low halves, 16 + 4j + i in high ones.
void nibbles(const uint8_t *packed, int64_t row, int32_t *values) {
    for (int64_t c = 0; c < 16; c++) {
        const uint8_t byte = packed[(c / 4 * kPanelRows + row) * 4 + c % 4];
        values[c] = byte & 15;
        values[16 + c] = byte >> 4;
    }
}

void bf16(const Run &run, float *out) {
    for (int64_t c = 0; c < 32; c++) {
        uint16_t bits;
        std::memcpy(&bits, run.data + ((c / 2 * kPanelRows + run.row) * 2 + c % 2) * 2, 2);
        out[c] = std::bit_cast<float>(uint32_t{bits} << 16);
    }
}

void q8_0(const Run &run, float *out) {
    const float scale = half(run.data + run.number * 32, run.row);
    const uint8_t *values = run.data + 64 + run.number * 512;
    for (int64_t c = 0; c < 32; c++) {
        out[c] = static_cast<float>(values[(c / 4 * kPanelRows + run.row) * 4 + c % 4] - 128) * scale;
    }
}

void q4_0(const Run &run, float *out) {
    int32_t q[32];
    nibbles(run.data + 64 + run.number * 256, run.row, q);
    const float scale = half(run.data + run.number * 32, run.row);
    for (int64_t c = 0; c < 32; c++) out[c] = static_cast<float>(q[c] - 8) * scale;
}

void q4_1(const Run &run, float *out) {
    int32_t q[32];
    nibbles(run.data + 64, run.row, q);
    const float scale = half(run.data, run.row), minimum = half(run.data + 32, run.row);
    for (int64_t c = 0; c < 32; c++) out[c] = static_cast<float>(q[c]) * scale + minimum;
}

void q5_0(const Run &run, float *out) {
    const uint8_t *low = run.data + 64 + run.number * (256 + 64), *fifth = low + 256 + run.row * 4;
    int32_t q[32];
    nibbles(low, run.row, q);
    const float scale = half(run.data + run.number * 32, run.row);
    for (int64_t c = 0; c < 32; c++) out[c] = static_cast<float>(q[c] + (fifth[c % 4] >> c / 4 & 1) * 16 - 16) * scale;
}

void q4_k(const Run &run, float *out) {
    const uint8_t *scales = run.data + 64 + run.number * 32;
    int32_t q[32];
    nibbles(run.data + 64 + 256 + run.number * 256, run.row, q);
    const float scale = half(run.data, run.row) * static_cast<float>(scales[run.row]);
    const float minimum = half(run.data + 32, run.row) * static_cast<float>(scales[kPanelRows + run.row]);
    for (int64_t c = 0; c < 32; c++) out[c] = static_cast<float>(q[c]) * scale - minimum;
}

void q6_k(const Run &run, float *out) {
    const uint8_t *scales = run.data + 64 + run.number * 32;
    const uint8_t *low = run.data + 64 + 256 + run.number * (256 + 128), *high = low + 256;
    int32_t q[32];
    nibbles(low, run.row, q);
    const float d = half(run.data, run.row);
    for (int64_t c = 0; c < 32; c++) {
        const uint8_t byte = high[(c % 8 / 4 * kPanelRows + run.row) * 4 + c % 4];
        const int8_t scale = std::bit_cast<int8_t>(scales[c / 16 * kPanelRows + run.row]);
        out[c] = static_cast<float>((q[c] | (byte >> c / 8 * 2 & 3) << 4) - 32) * (d * static_cast<float>(scale));
    }
}

void unpack_i8(const tiercel_matrix &matrix, int64_t row, float *out) {
    const int64_t bytes = panel_bytes(TIERCEL_I8, matrix.columns);
    const uint8_t *panel = matrix.data + row / kPanelRows * bytes;
    float scale;
    std::memcpy(&scale, panel + bytes - kPanelScaleBytes + row % kPanelRows * sizeof scale, sizeof scale);
    const int8_t *values = reinterpret_cast<const int8_t *>(panel + row % kPanelRows * 4);
    for (int64_t c = 0; c < matrix.columns; c++) out[c] = static_cast<float>(values[c / 4 * 4 * kPanelRows + c % 4]) * scale;
    TIERCEL_LEVEL::rotate_row(out, matrix.columns);
}

using Unpack = void (*)(const Run &, float *);

Unpack unpack_of(int32_t format) {
    switch (format) {
        case TIERCEL_Q8_0: return q8_0;
        case TIERCEL_Q4_0: return q4_0;
        case TIERCEL_Q4_1: return q4_1;
        case TIERCEL_Q5_0: return q5_0;
        case TIERCEL_Q4_K: return q4_k;
        case TIERCEL_Q6_K: return q6_k;
        default: return bf16;
    }
}

}  // namespace

void unpack_row(const tiercel_matrix &matrix, int64_t row, float *out) {
    if (matrix.format == TIERCEL_F32) {
        std::memcpy(out, matrix.data + row * matrix.columns * 4, size_t(matrix.columns) * 4);
        return;
    }
    if (matrix.format == TIERCEL_I8) return unpack_i8(matrix, row, out);
    const GroupShape shape = group_shape(matrix.format);
    const uint8_t *panel = matrix.data + row / kPanelRows * panel_bytes(matrix.format, matrix.columns);
    const Unpack unpack = unpack_of(matrix.format);
    for (int64_t at = 0; at < matrix.columns; at += 32) {
        const Run run{panel + at / shape.columns * shape.bytes, row % kPanelRows, at % shape.columns / 32};
        float values[32];
        unpack(run, values);
        std::memcpy(out + at, values, sizeof(float) * size_t(std::min<int64_t>(32, matrix.columns - at)));
    }
}

}  // namespace tiercel
