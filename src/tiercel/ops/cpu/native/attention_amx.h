// The two products of attention on matrix tiles, whose products multiply A [16, 32] by B [16 pairs, 16, 2]: an even and an odd
// chain over the 32, then their sum onto C; see attention.cpp.

#pragma once

#include "attention_keys.h"
#include "simd.h"
#include "tile.h"

namespace tiercel::TIERCEL_LEVEL {

constexpr int kTileBytes = 1024;

class Products {
  public:
    // Queries: B tiles, [width / 32][16 pairs][16 lanes][2] bf16.
    static int64_t query_bytes(int width) { return int64_t(width) / kSpan * kTileBytes; }
    static int64_t scratch_bytes(int width) { return kSpans * (span_bytes(width) + kTileBytes); }

    Products(int width, uint8_t *scratch)
        : width_(width), values_(scratch), weights_(scratch + kSpans * span_bytes(width)) {}

    static void pack_query(const uint16_t *query, int width, int lane, uint8_t *tiles) {
        auto *pairs = reinterpret_cast<uint16_t *>(tiles);
        for (int d = 0; d < width; d++) pairs[(d / 2 * kLanes + lane) * 2 + d % 2] = query[d];
    }

    // Values of a span as B tiles, for all tiles of queries: [width / 16][16 pairs of keys][16][2].
    void prepare(int span, const uint16_t *values) {
        const __m512i low = pair_index(0), high = pair_index(16);
        uint8_t *tiles = values_ + span * span_bytes(width_);
        for (int d = 0; d < width_; d += kSpan, tiles += 2 * kTileBytes) {
            for (int pair = 0; pair < kSpan / 2; pair++) {
                const uint16_t *row = values + 2 * pair * width_ + d;
                __m512i even = _mm512_loadu_si512(row), odd = _mm512_loadu_si512(row + width_);
                _mm512_store_si512(tiles + pair * 64, _mm512_permutex2var_epi16(even, low, odd));
                _mm512_store_si512(tiles + kTileBytes + pair * 64, _mm512_permutex2var_epi16(even, high, odd));
            }
        }
    }

    // scores [32][16] = keys [32, width] times queries.
    void scores(const uint8_t *query, const uint16_t *keys, int, float *scores) const {
        const int64_t stride = width_ * int64_t(sizeof(uint16_t));
        tile_zero<0>();
        tile_zero<1>();
        for (int d = 0; d < width_; d += kSpan, query += kTileBytes) {
            tile_load<2>(query, 64);
            tile_load<3>(keys + d, stride);
            tile_load<4>(keys + d + 16 * width_, stride);
            tile_multiply_bf16<0, 3, 2>();
            tile_multiply_bf16<1, 4, 2>();
        }
        tile_store<0>(scores, 64);
        tile_store<1>(scores + 16 * kLanes, 64);
    }

    // values [16][width] = weights, [count][32][16], times the values of `count` prepared spans.
    void weighted_values(const float *weights, const int *spans, int count, int, float *values) {
        for (int i = 0; i < count; i++) pack_weights(weights + i * kSpan * kLanes, weights_ + i * kTileBytes);
        int d = 0;
        for (; d + 64 <= width_; d += 64) columns<4>(spans, count, d, values);
        if (d < width_) columns<2>(spans, count, d, values);
    }

  private:
    static int64_t span_bytes(int width) { return int64_t(width) / 16 * kTileBytes; }

    static __m512i pair_index(int first) {  // first, 32 + first, first + 1, 33 + first, ...
        __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        index = _mm512_add_epi32(index, _mm512_set1_epi32(first));
        return _mm512_or_si512(index, _mm512_slli_epi32(_mm512_add_epi32(index, _mm512_set1_epi32(32)), 16));
    }

    // Weights of a span [32 keys][16 lanes], which bf16 holds exactly, as an A tile: bf16 [16 lanes][32 keys].
    static void pack_weights(const float *weights, uint8_t *tile) {
        __m512i r[16], t[16];
        for (int pair = 0; pair < 16; pair++) {
            __m512i even = _mm512_loadu_si512(weights + 2 * pair * kLanes);
            __m512i odd = _mm512_loadu_si512(weights + (2 * pair + 1) * kLanes);
            r[pair] = _mm512_or_si512(_mm512_srli_epi32(even, 16), odd);  // the low half of a rounded weight is zero
        }
        // Transposes [16 pairs][16 lanes]: within runs of four lanes first, then runs.
        for (int i = 0; i < 16; i += 2) {
            t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
            t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
        }
        for (int i = 0; i < 16; i += 4) {
            r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
            r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
            r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
            r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
        }
        for (int i = 0; i < 4; i++) {
            __m512i even_low = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88), odd_low = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
            __m512i even_high = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
            __m512i odd_high = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
            _mm512_store_si512(tile + 64 * i, _mm512_shuffle_i32x4(even_low, even_high, 0x88));
            _mm512_store_si512(tile + 64 * (4 + i), _mm512_shuffle_i32x4(odd_low, odd_high, 0x88));
            _mm512_store_si512(tile + 64 * (8 + i), _mm512_shuffle_i32x4(even_low, even_high, 0xdd));
            _mm512_store_si512(tile + 64 * (12 + i), _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd));
        }
    }

    // Columns d .. d + 16 * tiles - 1 of the weighted values: sums stay in tiles over all spans.
    template <int tiles> void columns(const int *spans, int count, int d, float *values) const {
        const int64_t stride = width_ * int64_t(sizeof(float));
        tile_zero<0>();
        tile_zero<1>();
        if constexpr (tiles == 4) tile_zero<2>(), tile_zero<3>();
        for (int i = 0; i < count; i++) {
            const uint8_t *from = values_ + spans[i] * span_bytes(width_) + d / 16 * kTileBytes;
            tile_load<4>(weights_ + i * kTileBytes, 64);
            tile_load<5>(from, 64);
            tile_load<6>(from + kTileBytes, 64);
            tile_multiply_bf16<0, 4, 5>();
            tile_multiply_bf16<1, 4, 6>();
            if constexpr (tiles == 4) {
                tile_load<7>(from + 2 * kTileBytes, 64);
                tile_load<5>(from + 3 * kTileBytes, 64);
                tile_multiply_bf16<2, 4, 7>();
                tile_multiply_bf16<3, 4, 5>();
            }
        }
        tile_store<0>(values + d, stride);
        tile_store<1>(values + d + 16, stride);
        if constexpr (tiles == 4) tile_store<2>(values + d + 32, stride), tile_store<3>(values + d + 48, stride);
    }

    Tiles tiles_{{16, 16, 16, 16, 16, 16, 16, 16}};
    int width_;
    uint8_t *values_, *weights_;
};

}  // namespace tiercel::TIERCEL_LEVEL
