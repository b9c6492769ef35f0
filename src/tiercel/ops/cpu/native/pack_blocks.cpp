// Blocks of GGUF files; their bytes are described in ops/dequantize.py.

#include <cstring>

#include "pack.h"

namespace tiercel {
namespace {

uint16_t half_at(const uint8_t *p) {
    uint16_t half;
    std::memcpy(&half, p, sizeof half);
    return half;
}

// 16 bytes hold values 0 - 15 in their low and 16 - 31 in their high halves.
void read_nibbles(const uint8_t *packed, uint8_t *values) {
    for (int i = 0; i < 16; i++) {
        values[i] = packed[i] & 15;
        values[16 + i] = packed[i] >> 4;
    }
}

void read_q5_0(const uint8_t *block, Quants &out) {
    out.scale = half_at(block);
    uint32_t fifth;
    std::memcpy(&fifth, block + 2, sizeof fifth);
    read_nibbles(block + 6, out.values);
    for (int i = 0; i < 32; i++) out.values[i] |= (fifth >> i & 1) << 4;
}

void read_q8_0(const uint8_t *block, Quants &out) {
    out.scale = half_at(block);
    for (int i = 0; i < 32; i++) out.values[i] = block[2 + i] ^ 0x80;
}

void read_q4_k(const uint8_t *block, Quants &out) {
    out.scale = half_at(block);
    out.minimum = half_at(block + 2);
    const uint8_t *low = block + 4, *middle = block + 8, *high = block + 12;
    for (int i = 0; i < 4; i++) {
        out.scales[i] = low[i] & 63;
        out.minima[i] = middle[i] & 63;
        out.scales[4 + i] = (high[i] & 15) | (low[i] >> 2 & 48);
        out.minima[4 + i] = high[i] >> 4 | (middle[i] >> 2 & 48);
    }
    for (int pair = 0; pair < 4; pair++) {
        for (int i = 0; i < 32; i++) {
            uint8_t byte = block[16 + 32 * pair + i];
            out.values[64 * pair + i] = byte & 15;
            out.values[64 * pair + 32 + i] = byte >> 4;
        }
    }
}

void read_q6_k(const uint8_t *block, Quants &out) {
    out.scale = half_at(block + 208);
    std::memcpy(out.scales, block + 192, 16);
    for (int part = 0; part < 2; part++) {
        const uint8_t *low = block + 64 * part, *high = block + 128 + 32 * part;
        uint8_t *values = out.values + 128 * part;
        for (int i = 0; i < 32; i++) {
            values[i] = (low[i] & 15) | (high[i] & 3) << 4;
            values[32 + i] = (low[32 + i] & 15) | (high[i] >> 2 & 3) << 4;
            values[64 + i] = low[i] >> 4 | (high[i] >> 4 & 3) << 4;
            values[96 + i] = low[32 + i] >> 4 | (high[i] >> 6) << 4;
        }
    }
}

}  // namespace

GroupShape block_shape(int32_t format) {
    switch (format) {
        case TIERCEL_F32: return {1, 4};
        case TIERCEL_F16:
        case TIERCEL_BF16: return {1, 2};
        case TIERCEL_Q8_0: return {32, 34};
        case TIERCEL_Q4_0: return {32, 18};
        case TIERCEL_Q4_1: return {32, 20};
        case TIERCEL_Q5_0: return {32, 22};
        case TIERCEL_Q4_K: return {256, 144};
        case TIERCEL_Q6_K: return {256, 210};
        default: return {0, 0};
    }
}

void read_block(int32_t format, const uint8_t *block, Quants &out) {
    switch (format) {
        case TIERCEL_Q8_0: read_q8_0(block, out); break;
        case TIERCEL_Q4_0:
            out.scale = half_at(block);
            read_nibbles(block + 2, out.values);
            break;
        case TIERCEL_Q4_1:
            out.scale = half_at(block);
            out.minimum = half_at(block + 2);
            read_nibbles(block + 4, out.values);
            break;
        case TIERCEL_Q5_0: read_q5_0(block, out); break;
        case TIERCEL_Q4_K: read_q4_k(block, out); break;
        default: read_q6_k(block, out); break;
    }
}

void dequantise(int32_t format, const Quants &quants, float *out) {
    const float scale = from_half(quants.scale);
    const int32_t zero = zero_point(format);
    if (format == TIERCEL_Q4_K) {
        const float minimum = from_half(quants.minimum);
        for (int run = 0; run < 8; run++) {
            const float run_scale = scale * quants.scales[run], run_minimum = minimum * quants.minima[run];
            for (int i = 32 * run; i < 32 * run + 32; i++) out[i] = run_scale * quants.values[i] - run_minimum;
        }
    } else if (format == TIERCEL_Q6_K) {
        for (int run = 0; run < 16; run++) {
            const float run_scale = scale * static_cast<int8_t>(quants.scales[run]);
            for (int i = 16 * run; i < 16 * run + 16; i++) out[i] = run_scale * (quants.values[i] - zero);
        }
    } else if (format == TIERCEL_Q4_1) {
        const float minimum = from_half(quants.minimum);
        for (int i = 0; i < 32; i++) out[i] = scale * quants.values[i] + minimum;
    } else {
        for (int i = 0; i < 32; i++) out[i] = scale * (quants.values[i] - zero);
    }
}

}  // namespace tiercel
