// The two forms in which products read their input.
//
// bf16: each value rounded to nearest even.
// q8: per row and group of 32 channels a scale = largest magnitude / 127 and integers round(x / scale), to nearest even, so
// that -128 never occurs; a group of zeros has scale 0. A row is int8 [columns], then float32 scales [columns / 32], then
// float32 scale * (sum of the group's integers) [columns / 32], then int16 [columns / 16], the sum of each 16 integers; columns
// are padded with zeros to a multiple of 32, and the row to 64 bytes.

#pragma once

#include <cstdint>

namespace tiercel {

inline int64_t padded_channels(int64_t channels) { return (channels + 31) / 32 * 32; }

inline int64_t q8_row_bytes(int64_t channels) {
    int64_t columns = padded_channels(channels);
    return (columns + columns / 32 * 4 * 2 + columns / 16 * 2 + 63) / 64 * 64;
}

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
