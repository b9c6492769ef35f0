// Packed matrices: how weights lie in memory, the same for every instruction set.
//
// Rows (a product's output channels) are cut into panels of 16; the last is filled up with zeros. A panel is one run of bytes
// in the order in which a product reads it, so that lane i of a vector belongs to row i of the panel and no sum ever crosses
// lanes. Columns are cut into groups; the last is filled up with zeros. F32 matrices are not cut: they are plain row-major.
//
//   BF16   groups of 32 columns: [16 column pairs][16 rows][2] bf16, which is also a tile of the matrix units.
//   Q8_0   groups of 64 columns, two blocks of the file: [2][16 rows] fp16 scale, [2][8 column quads][16 rows][4] uint8 =
//          value + 128
//   Q4_0   groups of 64: [2][16] fp16 scale, [2] nibbles: byte (j, row, i) of [4][16 rows][4] holds column 4j + i in its low
//          and column 16 + 4j + i in its high half; value = scale * (nibble - 8)
//   Q4_1   groups of 32: [16] fp16 scale, [16] fp16 minimum, nibbles; value = scale * nibble + minimum
//   Q5_0   groups of 64: [2][16] fp16 scale, [2] of nibbles and [16 rows][4] uint8, where bit j of byte (row, i) is the fifth
//          bit of column 4j + i; value = scale * (q - 16)
//   Q4_K   groups of 256: [16] fp16 d, [16] fp16 dmin, [8][2][16] uint8 scale and min, [8] nibbles;
//          value = d * scale * nibble - dmin * min
//   Q6_K   groups of 256: [16] fp16 d, 32 bytes of nothing, [8][2][16] int8 scales (of 16 columns each), [8] of nibbles and
//          [2][16 rows][4] uint8: byte (j, row, i) holds bits 4-5 of columns 4j + i, 8 + 4j + i, 16 + 4j + i, 24 + 4j + i;
//          value = d * scale * (q - 32)
//   I8     groups of 64: [16 column quads][16 rows][4] int8, which is also a tile of the matrix units, of rotated rows with one
//          scale each (quantise_row.h); behind a panel's groups [16] float32 scales. Never -128.
// Every run that a vector reads starts at a multiple of its size, and groups at multiples of 64 bytes.
// (Formats of files: https://github.com/ggml-org/ggml, ggml-common.h.)

#pragma once

#include <cstdint>

#include "api.h"

namespace tiercel {

constexpr int32_t kPanelRows = 16;

inline int64_t panels(int64_t rows) { return (rows + kPanelRows - 1) / kPanelRows; }

// Columns per group, and bytes of a group of a panel's 16 rows.
struct GroupShape {
    int32_t columns;
    int32_t bytes;
};

constexpr GroupShape group_shape(int32_t format) {
    switch (format) {
        case TIERCEL_BF16: return {32, 1024};
        case TIERCEL_Q8_0: return {64, 64 + 2 * 512};
        case TIERCEL_Q4_0: return {64, 64 + 2 * 256};
        case TIERCEL_Q4_1: return {32, 64 + 256};
        case TIERCEL_Q5_0: return {64, 64 + 2 * (256 + 64)};
        case TIERCEL_Q4_K: return {256, 64 + 256 + 8 * 256};
        case TIERCEL_Q6_K: return {256, 64 + 256 + 8 * (256 + 128)};
        case TIERCEL_I8: return {64, 1024};
        default: return {0, 0};
    }
}

constexpr int64_t kPanelScaleBytes = kPanelRows * 4;  // of I8

inline int64_t panel_bytes(int32_t format, int64_t columns) {
    GroupShape shape = group_shape(format);
    const int64_t groups = (columns + shape.columns - 1) / shape.columns * shape.bytes;
    return format == TIERCEL_I8 ? groups + kPanelScaleBytes : groups;
}

}  // namespace tiercel
