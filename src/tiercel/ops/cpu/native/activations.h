// The forms in which products read their input.
//
// bf16: each value rounded to nearest even. All rows together make tiles [blocks of 16 rows][groups of 32 channels][rows of a
// block][32], channels padded with zeros; a step of fewer than 16 rows has one block of that many, and rows that a last block
// lacks hold anything.
// q8: per row and group of 32 channels a scale = largest magnitude / 127 and integers round(x / scale), to nearest even, so
// that -128 never occurs; a group of zeros has scale 0. A row is int8 [columns], then float32 scales [columns / 32], then
// float32 scale * (sum of the group's integers) [columns / 32], then int16 [columns / 16], the sum of each 16 integers; columns
// are padded with zeros to a multiple of 32, and the row to 64 bytes.
// i8: a row is rotated, and has one scale and integers of up to 127 (quantise_row.h). All rows together make tiles [blocks of
// 16 rows][groups of 64 channels][rows of a block][64] int8, channels padded with zeros; a step of fewer than 16 rows has one
// block of that many, and rows that a last block lacks hold anything. Behind the tiles: float32 scales [rows], int32 sums of
// the integers [rows], each from a multiple of 64 bytes.

#pragma once

#include <cstdint>

namespace tiercel {

inline int64_t padded_channels(int64_t channels) { return (channels + 31) / 32 * 32; }

inline int64_t q8_row_bytes(int64_t channels) {
    int64_t columns = padded_channels(channels);
    return (columns + columns / 32 * 4 * 2 + columns / 16 * 2 + 63) / 64 * 64;
}

// The bf16 form of `rows` rows.
struct Bf16Rows {
    uint16_t *values;
    int64_t groups, block_rows;

    Bf16Rows(const uint16_t *memory, int64_t rows, int64_t channels)
        : values(const_cast<uint16_t *>(memory)), groups(padded_channels(channels) / 32), block_rows(rows < 16 ? rows : 16) {}
    uint16_t *at(int64_t row, int64_t group) const {
        return values + ((row / 16 * groups + group) * block_rows + row % 16) * 32;
    }
};

// The parts of the i8 form of `rows` rows.
struct I8Rows {
    int8_t *values;
    float *scales;
    int32_t *sums;
    int64_t groups, block_rows;

    I8Rows(uint8_t *memory, int64_t rows, int64_t channels)
        : values(reinterpret_cast<int8_t *>(memory)), groups((channels + 63) / 64), block_rows(rows < 16 ? rows : 16) {
        const int64_t blocks = (rows + 15) / 16, padded = (rows + 15) / 16 * 16;
        scales = reinterpret_cast<float *>(memory + blocks * groups * block_rows * 64);
        sums = reinterpret_cast<int32_t *>(scales + padded);
    }
    int8_t *at(int64_t row, int64_t group) const {
        return values + ((row / 16 * groups + group) * block_rows + row % 16) * 64;
    }
};

// The parts of one row.
struct Q8Row {
    const int8_t *values;
    const float *scales, *scaled_sums;  // per 32
    const int16_t *sums;                // per 16

    Q8Row(const uint8_t *row, int64_t channels) {
        int64_t columns = padded_channels(channels);
        values = reinterpret_cast<const int8_t *>(row);
        scales = reinterpret_cast<const float *>(row + columns);
        scaled_sums = scales + columns / 32;
        sums = reinterpret_cast<const int16_t *>(scaled_sums + columns / 32);
    }
};

}  // namespace tiercel
