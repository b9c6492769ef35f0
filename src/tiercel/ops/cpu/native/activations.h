// The two forms in which products read their input.
//
// bf16: each value rounded to nearest even.
// q8: per row and group of 32 channels a scale = largest magnitude / 127 and integers round(x / scale), to nearest even; a group
// of zeros has scale 0. A row is int8 [columns], then float32 scales [columns / 32], then int32 [columns / 16], the sum of each
// 16 integers; columns are padded with zeros to a multiple of 32, and the row to 64 bytes.

#pragma once

#include <cstdint>

namespace tiercel {

inline int64_t padded_channels(int64_t channels) { return (channels + 31) / 32 * 32; }

inline int64_t q8_row_bytes(int64_t channels) {
    int64_t columns = padded_channels(channels);
    return (columns + columns / 32 * 4 + columns / 16 * 4 + 63) / 64 * 64;
}

// The parts of one row.
struct Q8Row {
    const int8_t *values;
    const float *scales;
    const int32_t *sums;

    Q8Row(const uint8_t *row, int64_t channels) {
        int64_t columns = padded_channels(channels);
        values = reinterpret_cast<const int8_t *>(row);
        scales = reinterpret_cast<const float *>(row + columns);
        sums = reinterpret_cast<const int32_t *>(row + columns + columns / 32 * 4);
    }
};

}  // namespace tiercel
