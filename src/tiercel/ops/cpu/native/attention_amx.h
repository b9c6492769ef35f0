// The two products of attention on matrix tiles, whose products multiply A [16, 32] by B [16 pairs, 16, 2]; see attention.cpp
// for the order. A key lies in memory as a row of A wants it, so scores are computed as keys times queries and turned round; a
// value is brought into the form of B by one shuffle per 64 bytes.

#pragma once

#include "attention_keys.h"
#include "simd.h"
#include "tile.h"

namespace tiercel::TIERCEL_LEVEL {

class Products {
  public:
    // Queries: B tiles, [width / 32][16 pairs][16 queries][2] bf16.
    static int64_t query_bytes(int width) { return int64_t(width) / kSpan * kTileBytes; }
    static int64_t scratch_bytes(int width) { return kSpans * span_bytes(width) + kScoreBytes + kWeightBytes + 2 * kTileBytes; }

    Products(int width, uint8_t *scratch)
        : width_(width), prepared_(scratch), scores_(reinterpret_cast<float *>(scratch + kSpans * span_bytes(width))),
          weights_(reinterpret_cast<uint16_t *>(scratch + kSpans * span_bytes(width) + kScoreBytes)),
          turned_(reinterpret_cast<float *>(scratch + kSpans * span_bytes(width) + kScoreBytes + kWeightBytes)) {}

    static void pack_query(const uint16_t *query, int width, int number, uint8_t *tiles) {
        auto *pairs = reinterpret_cast<uint16_t *>(tiles);
        for (int d = 0; d < width; d++) pairs[(d / 2 * kLanes + number) * 2 + d % 2] = query[d];
    }

    // shared: several tiles of queries come, and what is prepared for one is kept for the next.
    void begin_split(bool shared) { shared_ = shared, ready_ = 0; }

    float *scores(int query) { return scores_ + query * kSplit; }

    void put_weights(int query, int column, F32 first, F32 last) {
        // The high halves of both: a rounded weight has nothing below.
        const __m512i halves = pair_index(1, 2);
        __m512i packed = _mm512_permutex2var_epi16(as_int(first).v, halves, as_int(last).v);
        _mm512_store_si512(weights_ + query * kSplit + column, packed);
    }

    // scores(query)[span's columns] = query times the keys of a span.
    void score(const uint8_t *queries, const Span &span, int count, Ahead &ahead) {
        const int64_t stride = width_ * int64_t(sizeof(uint16_t));
        tile_zero<0>();
        tile_zero<1>();
        for (int d = 0; d < width_; d += kSpan, queries += kTileBytes) {
            tile_load<2>(queries, 64);
            tile_load<3>(span.keys + d, stride);
            tile_load<4>(span.keys + d + 16 * width_, stride);
            tile_multiply_bf16<0, 3, 2>();
            tile_multiply_bf16<1, 4, 2>();
            // With `weigh` and the values this makes a span, evenly over the time: few queries take little.
            if (count > 2) ahead.lines<4>();
            else ahead.lines<6>();
        }
        tile_store<0>(turned_, 64);
        tile_store<1>(turned_ + kTileFloats, 64);
        for (int query = 0; query < count; query += 4) {
            turn_four(turned_ + query, scores(query) + span.column);
            ahead.lines<1>();
            turn_four(turned_ + kTileFloats + query, scores(query) + span.column + kLanes);
            ahead.lines<1>();
        }
    }

    // values [16][width] = weights times the values of some spans.
    void weigh_values(const Span *const *spans, int num_spans, int, float *values, Ahead &ahead) {
        int d = 0;
        for (; d + 64 <= width_; d += 64) columns<4>(spans, num_spans, d, values, ahead);
        if (d < width_) columns<2>(spans, num_spans, d, values, ahead);
        for (int i = 0; i < num_spans; i++) ready_ |= 1u << spans[i]->column / kSpan;
    }

  private:
    static constexpr int kTileBytes = 1024, kTileFloats = 256;
    static constexpr int64_t kScoreBytes = kLanes * kSplit * int64_t(sizeof(float));
    static constexpr int64_t kWeightBytes = kLanes * kSplit * int64_t(sizeof(uint16_t));
    static int64_t span_bytes(int width) { return int64_t(width) / 16 * kTileBytes; }

    // first, 32 + first, first + step, 32 + first + step, ... with step 1: pairs of two rows; otherwise first, first + 2, ...
    static __m512i pair_index(int first, int step) {
        alignas(64) uint16_t index[32];
        for (int i = 0; i < 32; i++) index[i] = uint16_t(step == 1 ? first + i / 2 + i % 2 * 32 : first + i * 2);
        return _mm512_load_si512(index);
    }

    // [16 keys][16 queries] to [4 queries][256 keys]: four blocks of 4 x 4, one in each quarter of a register.
    static void turn_four(const float *from, float *to) {
        __m512 row[4];
        for (int i = 0; i < 4; i++) {
            __m512 quarters = _mm512_castps128_ps512(_mm_load_ps(from + i * kLanes));
            quarters = _mm512_insertf32x4(quarters, _mm_load_ps(from + (4 + i) * kLanes), 1);
            quarters = _mm512_insertf32x4(quarters, _mm_load_ps(from + (8 + i) * kLanes), 2);
            row[i] = _mm512_insertf32x4(quarters, _mm_load_ps(from + (12 + i) * kLanes), 3);
        }
        __m512 low = _mm512_unpacklo_ps(row[0], row[1]), high = _mm512_unpackhi_ps(row[0], row[1]);
        __m512 low_next = _mm512_unpacklo_ps(row[2], row[3]), high_next = _mm512_unpackhi_ps(row[2], row[3]);
        _mm512_storeu_ps(to, _mm512_shuffle_ps(low, low_next, 0x44));
        _mm512_storeu_ps(to + kSplit, _mm512_shuffle_ps(low, low_next, 0xee));
        _mm512_storeu_ps(to + 2 * kSplit, _mm512_shuffle_ps(high, high_next, 0x44));
        _mm512_storeu_ps(to + 3 * kSplit, _mm512_shuffle_ps(high, high_next, 0xee));
    }

    // Columns d .. d + 16 * tiles - 1 of a span's values as B tiles, [tiles][16 pairs of keys][16][2].
    template <int tiles> void prepare(const uint16_t *values, uint8_t *to, Ahead &ahead) const {
        const __m512i low = pair_index(0, 1), high = pair_index(16, 1);
        for (int pair = 0; pair < kSpan / 2; pair++) {
            for (int tile = 0; tile < tiles; tile += 2) {
                const uint16_t *row = values + 2 * pair * width_ + tile * 16;
                __m512i even = _mm512_loadu_si512(row), odd = _mm512_loadu_si512(row + width_);
                _mm512_store_si512(to + tile * kTileBytes + pair * 64, _mm512_permutex2var_epi16(even, low, odd));
                _mm512_store_si512(to + (tile + 1) * kTileBytes + pair * 64, _mm512_permutex2var_epi16(even, high, odd));
            }
            ahead.lines<1>();
        }
    }

    // Columns d .. d + 16 * tiles - 1 of the weighted values: sums stay in tiles over all spans.
    template <int tiles>
    void columns(const Span *const *spans, int num_spans, int d, float *values, Ahead &ahead) const {
        const int64_t stride = width_ * int64_t(sizeof(float));
        tile_zero<0>();
        tile_zero<1>();
        if constexpr (tiles == 4) tile_zero<2>(), tile_zero<3>();
        for (int i = 0; i < num_spans; i++) {
            const int slot = spans[i]->column / kSpan;
            uint8_t *b = prepared_ + (shared_ ? slot * span_bytes(width_) + d / 16 * kTileBytes : 0);
            if (!(ready_ >> slot & 1)) prepare<tiles>(spans[i]->values + d, b, ahead);
            tile_load<4>(weights_ + spans[i]->column, kSplit * sizeof(uint16_t));
            tile_load<5>(b, 64);
            tile_load<6>(b + kTileBytes, 64);
            tile_multiply_bf16<0, 4, 5>();
            tile_multiply_bf16<1, 4, 6>();
            if constexpr (tiles == 4) {
                tile_load<7>(b + 2 * kTileBytes, 64);
                tile_load<5>(b + 3 * kTileBytes, 64);
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
    uint8_t *prepared_;  // values as B tiles: of all spans where they are shared, otherwise of one
    float *scores_;      // [16 queries][256]
    uint16_t *weights_;  // bf16 [16 queries][256]
    float *turned_;      // [32 keys][16 queries]
    bool shared_ = false;
    uint32_t ready_ = 0;  // bits of spans
};

}  // namespace tiercel::TIERCEL_LEVEL
