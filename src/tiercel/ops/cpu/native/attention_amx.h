// Attention of a tile of queries on matrix tiles, whose products multiply A [16, 32] by B [16 pairs, 16, 2]; see attention.cpp
// for the order.
//
// Lanes are queries all the way. A key lies in memory as a row of A wants it, so keys (A) times queries (B) give scores as
// [keys][queries], and the softmax runs down the keys without ever looking across lanes. Two rows of weights, packed, are a row
// of B; values are turned round into rows of A, once for all tiles of a unit, and values (A) times weights (B) give results as
// [channels][queries]. They are turned round at the very end. The sum of weights is one more row of values, all ones.

#pragma once

#include <array>

#include "attention_keys.h"
#include "attention_softmax.h"
#include "simd.h"
#include "tile.h"

namespace tiercel::TIERCEL_LEVEL {

// 16 x 16 values of 32 bits turned round. Strides in values.
inline void turn(const void *from, int64_t stride, void *to, int64_t to_stride) {
    __m512i r[16], t[16];
    for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(static_cast<const int32_t *>(from) + i * stride);
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        for (int half = 0; half < 2; half++) {
            r[i + 2 * half] = _mm512_unpacklo_epi64(t[i + half], t[i + 2 + half]);
            r[i + 2 * half + 1] = _mm512_unpackhi_epi64(t[i + half], t[i + 2 + half]);
        }
    }
    // r[4 * j + i], quarter k: rows 4 * j .. + 3 of column 4 * k + i
    for (int i = 0; i < 4; i++) {
        __m512i low = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88), high = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[i] = _mm512_shuffle_i32x4(low, high, 0x88);
        t[8 + i] = _mm512_shuffle_i32x4(low, high, 0xdd);
        low = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd), high = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
        t[4 + i] = _mm512_shuffle_i32x4(low, high, 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(low, high, 0xdd);
    }
    for (int i = 0; i < 16; i++) _mm512_storeu_si512(static_cast<int32_t *>(to) + i * to_stride, t[i]);
}

class Products {
  public:
    // Queries: B tiles, [width / 32][16 pairs][16 queries][2] bf16.
    static int64_t query_bytes(int width) { return int64_t(width) / kSpan * kTileBytes; }
    static int64_t scratch_bytes(int width) { return kScoreBytes + kSpans * span_bytes(width); }

    Products(int width, uint8_t *scratch)
        : width_(width), scores_(reinterpret_cast<float *>(scratch)), turned_(scratch + kScoreBytes) {}

    // rows: bf16 [16][width].
    static void pack_queries(const uint16_t *rows, int width, uint8_t *tiles) {
        for (int d = 0; d < width; d += kSpan, tiles += kTileBytes) turn(rows + d, width / 2, tiles, kLanes);
    }

    // What is prepared for one tile of queries is kept for those that follow.
    void begin_split() { ready_ = 0; }

    // The result of a tile of queries over the spans that it sees.
    void attend(const uint8_t *queries, const View *views, int num_views, int, F32 factor, const Part &part, Ahead &ahead) {
        score(queries, views, num_views);
        F32 most = all(kHidden);
        for (int i = 0; i < num_views; i++) {
            if (views[i].seen) hide(scores(i), views[i].seen);
            most = max(most, largest(scores(i)));
        }
        most = floor(most * factor);
        store(part.largest, most);
        const F32 minus = zero() - finite(most);
        for (int i = 0; i < num_views; i++) {
            weigh(scores(i), factor, minus, ahead);
            turn_values(*views[i].span, ahead);
        }
        int d = 0;
        if (width_ % 64) columns<2, true>(views, num_views, d, part), d += 32;
        else columns<4, true>(views, num_views, d, part), d += 64;
        for (; d < width_; d += 64) columns<4, false>(views, num_views, d, part);
    }

    static void merge_values(const Part &total, const Part &next, F32 keep, F32 add, int, int width) {
        for (int i = 0; i < width * kLanes; i += kLanes) {
            store(total.values + i, fma(load(total.values + i), keep, load(next.values + i) * add));
        }
    }

    // The weighted values over the sum of weights, [16][width]. rows: memory for them.
    static float *results(const Part &part, int, int width, float *rows) {
        const F32 share = share_of_one(part);
        for (int i = 0; i < width * kLanes; i += kLanes) store(part.values + i, load(part.values + i) * share + zero());
        for (int d = 0; d < width; d += kLanes) turn(part.values + d * kLanes, kLanes, rows + d, width);
        return rows;
    }

  private:
    static constexpr int kTileBytes = 1024, kTileFloats = 256;
    static constexpr int64_t kScoreBytes = (kSpans + 1) * 2 * kTileBytes;  // one more, for a span that has no neighbour
    static int64_t span_bytes(int width) { return int64_t(width) / 16 * kTileBytes; }

    // Of the i-th view: [32 keys][16 queries]. The weights of a pair of keys, [16 queries][2], take the place of the first
    // key's scores and make a B tile with rows two apart: what is at work on a split should fit the first cache.
    float *scores(int i) const { return scores_ + i * 2 * kTileFloats; }

    // Tiles 0 .. 3: the scores of two spans; 4: keys; 5: queries. Scores are stored while the next ones are computed.
    void score(const uint8_t *queries, const View *views, int num_views) {
        float *done = nullptr;
        for (int i = 0; i < num_views; i += 2) {
            const uint16_t *keys = views[i].span->keys, *next = views[std::min(i + 1, num_views - 1)].span->keys;
            const uint8_t *query = queries;
            tile_load<5>(query, 64);
            multiply_first<0>(done, keys);
            multiply_first<1>(done, keys + 16 * width_);
            multiply_first<2>(done, next);
            multiply_first<3>(done, next + 16 * width_);
            for (int d = kSpan; d < width_; d += kSpan) {
                query += kTileBytes;
                tile_load<5>(query, 64);
                multiply<0>(keys + d);
                multiply<1>(keys + d + 16 * width_);
                multiply<2>(next + d);
                multiply<3>(next + d + 16 * width_);
            }
            done = scores(i);
        }
        if (!done) return;
        tile_store<0>(done, 64), tile_store<1>(done + kTileFloats, 64);
        tile_store<2>(done + 2 * kTileFloats, 64), tile_store<3>(done + 3 * kTileFloats, 64);
    }
    template <int c> void multiply(const uint16_t *keys) {
        tile_load<4>(keys, width_ * int64_t(sizeof(uint16_t)));
        tile_multiply_bf16<c, 4, 5>();
    }
    template <int c> void multiply_first(float *done, const uint16_t *keys) {
        if (done) tile_store<c>(done + c * kTileFloats, 64);
        tile_zero<c>();
        multiply<c>(keys);
    }

    static void hide(float *scores, const uint32_t *seen) {
        const __m512i bits = _mm512_loadu_si512(seen);
        for (int key = 0; key < kSpan; key++, scores += kLanes) {
            const Mask visible = {_mm512_test_epi32_mask(bits, _mm512_set1_epi32(int32_t(1u << key)))};
            store(scores, choose(visible, load(scores), all(kHidden)));
        }
    }

    static F32 largest(const float *scores) {
        F32 even = load(scores), odd = load(scores + kLanes);
        for (int key = 2; key < kSpan; key += 2) {
            even = max(even, load(scores + key * kLanes));
            odd = max(odd, load(scores + (key + 1) * kLanes));
        }
        return max(even, odd);
    }

    static void weigh(float *scores, F32 factor, F32 minus, Ahead &ahead) {
        const WeightOf weight_of;
#pragma GCC unroll 4
        for (int pair = 0; pair < kSpan / 2; pair++, scores += 2 * kLanes) {
            const I32 even = as_int(weight_of(fma(load(scores), factor, minus)));
            const I32 odd = as_int(weight_of(fma(load(scores + kLanes), factor, minus)));
            _mm512_store_si512(scores, _mm512_mask_blend_epi16(0xaaaaaaaa, shift_right<16>(even).v, odd.v));
            if (pair % 4 == 3) ahead.lines<4>();
        }
    }

    // The values of a span as A tiles, [width / 16][16 channels][32 keys]: 8 channels of all keys at a time, each quarter of a
    // register with its own 8 keys.
    void turn_values(const Span &span, Ahead &ahead) {
        const int slot = span.column / kSpan;
        if (ready_ >> slot & 1) return;
        ready_ |= 1u << slot;
        const uint16_t *values = span.values;
        auto *to = reinterpret_cast<__m512i *>(turned_ + slot * span_bytes(width_));
        for (int d = 0; d < width_; d += 8, to += 8) {
            __m512i r[8], t[8];
            for (int key = 0; key < 8; key++) r[key] = gather_keys(values + key * width_ + d);
            for (int i = 0; i < 8; i += 2) {
                t[i] = _mm512_unpacklo_epi16(r[i], r[i + 1]);
                t[i + 1] = _mm512_unpackhi_epi16(r[i], r[i + 1]);
            }
            for (int i = 0; i < 8; i += 4) {
                for (int half = 0; half < 2; half++) {
                    r[i + 2 * half] = _mm512_unpacklo_epi32(t[i + half], t[i + 2 + half]);
                    r[i + 2 * half + 1] = _mm512_unpackhi_epi32(t[i + half], t[i + 2 + half]);
                }
            }
            for (int i = 0; i < 4; i++) {
                _mm512_store_si512(to + 2 * i, _mm512_unpacklo_epi64(r[i], r[4 + i]));
                _mm512_store_si512(to + 2 * i + 1, _mm512_unpackhi_epi64(r[i], r[4 + i]));
            }
            ahead.lines<2>();
        }
    }

    // 8 channels of keys 0, 8, 16 and 24 from here.
    __m512i gather_keys(const uint16_t *values) const {
        auto key = [&](int i) { return reinterpret_cast<const __m128i *>(values + i * width_); };
        const __m256i low = _mm256_set_m128i(_mm_loadu_si128(key(8)), _mm_loadu_si128(key(0)));
        const __m256i high = _mm256_set_m128i(_mm_loadu_si128(key(24)), _mm_loadu_si128(key(16)));
        return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }

    // Channels d .. d + 16 * tiles - 1 of the weighted values, in tiles 0 .. 3 over all spans, and the sums of weights, in the
    // one row of tile 6. 4: values; 5: weights; 7: ones.
    template <int tiles, bool sums> void columns(const View *views, int num_views, int d, const Part &part) const {
        alignas(64) static constexpr auto kOnes = [] {
            std::array<uint16_t, kSpan> ones{};
            ones.fill(0x3f80);
            return ones;
        }();
        tile_zero<0>(), tile_zero<1>();
        if constexpr (tiles == 4) tile_zero<2>(), tile_zero<3>();
        if constexpr (sums) tile_zero<6>(), tile_load<7>(kOnes.data(), 64);
        for (int i = 0; i < num_views; i++) {
            const uint8_t *values = turned_ + views[i].span->column / kSpan * span_bytes(width_) + d / 16 * kTileBytes;
            tile_load<5>(scores(i), 128);
            add_values<0>(values), add_values<1>(values);
            if constexpr (tiles == 4) add_values<2>(values), add_values<3>(values);
            if constexpr (sums) tile_multiply_bf16<6, 7, 5>();
        }
        float *to = part.values + d * kLanes;
        tile_store<0>(to, 64), tile_store<1>(to + kTileFloats, 64);
        if constexpr (tiles == 4) tile_store<2>(to + 2 * kTileFloats, 64), tile_store<3>(to + 3 * kTileFloats, 64);
        if constexpr (sums) tile_store<6>(part.sum, 64);
    }
    template <int c> static void add_values(const uint8_t *values) {
        tile_load<4>(values + c * kTileBytes, 64);
        tile_multiply_bf16<c, 4, 5>();
    }

    Tiles tiles_{{16, 16, 16, 16, 16, 16, 1, 1}};
    int width_;
    float *scores_;
    uint8_t *turned_;     // values as A tiles, by the span's place in the split
    uint32_t ready_ = 0;  // which of them are there
};

}  // namespace tiercel::TIERCEL_LEVEL
