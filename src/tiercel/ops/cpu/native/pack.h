// Between a file's blocks, float32 values and packed panels: `Quants` is the middle form that all three are turned into.

#pragma once

#include <immintrin.h>

#include <cstdint>

#include "packing.h"

namespace tiercel {

// One row's run of 32 columns, or of 256 in a K-quant. Which fields count, and what a quant means, depends on the format.
struct Quants {
    uint16_t scale;       // fp16; d of a K-quant
    uint16_t minimum;     // fp16; m of Q4_1, dmin of Q4_K
    uint8_t scales[16];   // per 32 columns in Q4_K; per 16, signed, in Q6_K
    uint8_t minima[8];    // Q4_K
    uint8_t values[256];  // never negative: zero_point(format) stands for 0
};

inline int32_t zero_point(int32_t format) {
    switch (format) {
        case TIERCEL_Q8_0: return 128;
        case TIERCEL_Q4_0: return 8;
        case TIERCEL_Q5_0: return 16;
        case TIERCEL_Q6_K: return 32;
        default: return 0;
    }
}

// Blocks of a file: their columns and bytes; columns 1 where every value stands alone, 0 where there is no such format.
GroupShape block_shape(int32_t format);

// Reads a quantised block, or turns one into float32 values. Bit for bit what ggml's reference code gives.
void read_block(int32_t format, const uint8_t *block, Quants &out);
void dequantise(int32_t format, const Quants &quants, float *out);
// 32 values as the nearest that Q8_0, Q4_0 or Q4_1 can say.
void quantise(int32_t format, const float *values, Quants &out);

inline bool can_quantise(int32_t format) {
    return format == TIERCEL_Q8_0 || format == TIERCEL_Q4_0 || format == TIERCEL_Q4_1;
}

inline float from_half(uint16_t half) { return _cvtsh_ss(half); }
inline uint16_t to_half(float value) { return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

}  // namespace tiercel
