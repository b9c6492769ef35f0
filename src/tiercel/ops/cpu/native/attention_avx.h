// Attention of a tile of queries on vectors, in the order of the matrix tiles; see attention.cpp. Both products are one
// function: rows of numbers times the rows of a matrix in blocks of 32, with lanes over the matrix's columns. For scores that
// matrix is the keys of a span turned round, and lanes are keys in the softmax, too.

#pragma once

#include "attention_keys.h"
#include "attention_softmax.h"
#include "simd.h"

namespace tiercel::TIERCEL_LEVEL {

#ifdef __AVX512F__

constexpr int kRegister = 16;
constexpr int kRows = 4;  // rows of a product that are computed together: as many as there are registers for
struct Register {
    __m512 v;
};
inline Register load_register(const float *p) { return {_mm512_loadu_ps(p)}; }
inline Register broadcast(float x) { return {_mm512_set1_ps(x)}; }
inline Register fma(Register a, Register b, Register c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Register operator+(Register a, Register b) { return {_mm512_add_ps(a.v, b.v)}; }
inline void store(float *p, Register a) { _mm512_storeu_ps(p, a.v); }

#else

constexpr int kRegister = 8;
constexpr int kRows = 2;
struct Register {
    __m256 v;
};
inline Register load_register(const float *p) { return {_mm256_loadu_ps(p)}; }
inline Register broadcast(float x) { return {_mm256_set1_ps(x)}; }
inline Register fma(Register a, Register b, Register c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Register operator+(Register a, Register b) { return {_mm256_add_ps(a.v, b.v)}; }
inline void store(float *p, Register a) { _mm256_storeu_ps(p, a.v); }

#endif

// 8 x 8 pairs of bf16, rows `stride` values apart, turned round and widened: row 2j + i of `to` [16][kSpan] is element i of the
// pairs j.
inline void turn_pairs(const uint16_t *from, int64_t stride, float *to) {
    __m256i r[8], t[8];
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + i * stride));
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int j = 0; j < 8; j++) {
        __m256i pairs = j < 4 ? _mm256_permute2x128_si256(r[j], r[4 + j], 0x20)
                              : _mm256_permute2x128_si256(r[j - 4], r[j], 0x31);
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + 2 * j * kSpan), _mm256_slli_epi32(pairs, 16));
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + (2 * j + 1) * kSpan),
                            _mm256_and_si256(pairs, _mm256_set1_epi32(int32_t(0xffff0000))));
    }
}

inline float max_of_lanes(F32 a) {
    alignas(64) float lanes[kLanes];
    store(lanes, a);
    return *std::max_element(lanes, lanes + kLanes);
}

// Lane i where bit i of the low half of `bits` is set.
inline Mask lanes_of(uint32_t bits) {
    alignas(64) static constexpr int32_t kBits[kLanes] = {1 << 0, 1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                                                          1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
    return less(all(0), load(kBits) & all(int32_t(bits & 0xffff)));
}

class Products {
  public:
    // Queries: float32 [16][width].
    static int64_t query_bytes(int width) { return int64_t(kLanes) * width * int64_t(sizeof(float)); }
    static int64_t scratch_bytes(int width) { return 2 * kSpans * span_bytes(width) + kScoreBytes; }

    Products(int width, uint8_t *scratch)
        : width_(width), keys_(reinterpret_cast<float *>(scratch)), values_(keys_ + kSpans * kSpan * width),
          scores_(values_ + kSpans * kSpan * width) {}

    // rows: bf16 [16][width].
    static void pack_queries(const uint16_t *rows, int width, uint8_t *tile) {
        for (int i = 0; i < kLanes * width; i += kLanes) store(reinterpret_cast<float *>(tile) + i, load_bf16(rows + i));
    }

    // What is prepared for one tile of queries is kept for those that follow.
    void begin_split() { keys_ready_ = values_ready_ = 0; }

    // The result of the first `count` queries of a tile over the spans that they see.
    void attend(const uint8_t *queries, const View *views, int num_views, int count, F32 factor, const Part &part,
                Ahead &ahead) {
        for (int i = 0; i < num_views; i++) score(queries, *views[i].span, count, ahead);
        store(part.largest, all(kHidden));
        store(part.sum, zero());
        for (int query = 0; query < count; query++) weigh(query, views, num_views, factor, part, ahead);
        weigh_values(views, num_views, count, part.values, ahead);
    }

    static void merge_values(const Part &total, const Part &next, F32 keep, F32 add, int count, int width) {
        alignas(64) float factors[2][kLanes];
        store(factors[0], keep);
        store(factors[1], add);
        for (int query = 0; query < count; query++) {
            const F32 a = all(factors[0][query]), b = all(factors[1][query]);
            float *to = total.values + query * width;
            const float *from = next.values + query * width;
            for (int d = 0; d < width; d += kLanes) store(to + d, fma(load(to + d), a, load(from + d) * b));
        }
    }

    // The weighted values over the sum of weights, [count][width].
    static float *results(const Part &part, int count, int width, float *) {
        alignas(64) float shares[kLanes];
        store(shares, share_of_one(part));
        for (int query = 0; query < count; query++) {
            float *row = part.values + query * width;
            for (int d = 0; d < width; d += kLanes) store(row + d, load(row + d) * all(shares[query]) + zero());
        }
        return part.values;
    }

  private:
    static constexpr int64_t kScoreBytes = kLanes * kSplit * int64_t(sizeof(float));
    static int64_t span_bytes(int width) { return int64_t(kSpan) * width * int64_t(sizeof(float)); }

    float *scores(int query) const { return scores_ + query * kSplit; }
    float *place(float *prepared, const Span &span) const { return prepared + span.column * width_; }

    // scores(query)[span's columns] = query times the keys of a span.
    void score(const uint8_t *queries, const Span &span, int count, Ahead &ahead) {
        float *keys = place(keys_, span);
        if (!ready(keys_ready_, span)) {
            const uint16_t *from = span.keys;
            for (int d = 0; d < width_; d += 16) {
                for (int key = 0; key < kSpan; key += 8) {
                    turn_pairs(from + key * width_ + d, width_, keys + d * kSpan + key);
                }
            }
        }
        for (int query = 0; query < count; query++) {
            for (int i = 0; i < kSpan; i += kLanes) store(scores(query) + span.column + i, zero());
        }
        for (int d = 0; d < width_; d += kSpan) {
            const float *rows = reinterpret_cast<const float *>(queries) + d;
            add_product(rows, width_, keys + d * kSpan, kSpan, kSpan, count, scores_ + span.column, kSplit, ahead);
        }
    }

    // A query's scores become weights.
    void weigh(int query, const View *views, int num_views, F32 factor, const Part &part, Ahead &ahead) {
        F32 most = all(kHidden);
        for (int i = 0; i < num_views; i++) {
            float *span = scores(query) + views[i].span->column;
            F32 first = load(span), last = load(span + kLanes);
            if (views[i].seen) {
                first = choose(lanes_of(views[i].seen[query]), first, all(kHidden));
                last = choose(lanes_of(views[i].seen[query] >> 16), last, all(kHidden));
                store(span, first);
                store(span + kLanes, last);
            }
            most = max(max(first, last), most);
            ahead.lines<1>();
        }
        most = floor(all(max_of_lanes(most)) * factor);
        const F32 minus = zero() - finite(most);
        const WeightOf weight_of;
        float total = 0;
        for (int i = 0; i < num_views; i++) {
            float *span = scores(query) + views[i].span->column;
            for (int j = 0; j < kSpan; j += kLanes) store(span + j, rounded(weight_of(fma(load(span + j), factor, minus))));
            total += even_plus_odd(span);
            ahead.lines<1>();
        }
        part.largest[query] = max_of_lanes(most);
        part.sum[query] = total;
    }

    // The sum of a span's numbers: one chain of those at even places, one of the others.
    static float even_plus_odd(const float *span) {
        __m128 chains = _mm_setzero_ps();
        for (int i = 0; i < kSpan; i += 2) {
            chains = _mm_add_ps(chains, _mm_loadl_pi(_mm_setzero_ps(), reinterpret_cast<const __m64 *>(span + i)));
        }
        return _mm_cvtss_f32(_mm_add_ss(chains, _mm_movehdup_ps(chains)));
    }

    // values [16][width] = weights times the values of some spans.
    void weigh_values(const View *views, int num_views, int count, float *values, Ahead &ahead) {
        for (int i = 0; i < count * width_; i += kLanes) store(values + i, zero());
        for (int i = 0; i < num_views; i++) {
            const Span &span = *views[i].span;
            float *rows = place(values_, span);
            if (!ready(values_ready_, span)) {
                const uint16_t *values = span.values;
                for (int j = 0; j < kSpan * width_; j += kLanes) store(rows + j, load_bf16(values + j));
            }
            add_product(scores_ + span.column, kSplit, rows, width_, width_, count, values, width_, ahead);
        }
    }

    bool ready(uint32_t &bits, const Span &span) const {
        const uint32_t bit = 1u << span.column / kSpan;
        const bool known = bits & bit;
        bits |= bit;
        return known;
    }

    // to [count][columns] += rows [count][32] times matrix [32][columns].
    static void add_product(const float *rows, int64_t row_stride, const float *matrix, int64_t matrix_stride, int columns,
                            int count, float *to, int64_t to_stride, Ahead &ahead) {
        Ahead nothing;
        for (int row = 0; row < count; row += kRows) {
            int64_t x_place[kRows], y_place[kRows];
            for (int i = 0; i < kRows; i++) {  // the last row stands for those that are missing, too
                x_place[i] = std::min(row + i, count - 1) * row_stride;
                y_place[i] = std::min(row + i, count - 1) * to_stride;
            }
            for (int column = 0; column < columns; column += 2 * kRegister) {
                add_some_rows(rows, x_place, matrix + column, matrix_stride, to + column, y_place, row ? nothing : ahead);
            }
        }
    }

    // kRows rows and two registers of columns.
    static void add_some_rows(const float *x, const int64_t *x_place, const float *m, int64_t m_stride, float *y,
                              const int64_t *y_place, Ahead &ahead) {
        Register even[kRows][2] = {}, odd[kRows][2] = {};
        for (int i = 0; i < kSpan; i += 2, m += 2 * m_stride) {
            const Register above[2] = {load_register(m), load_register(m + kRegister)};
            const Register below[2] = {load_register(m + m_stride), load_register(m + m_stride + kRegister)};
            ahead.lines<1>();  // for a span's two products that makes more lines than it has
            for (int row = 0; row < kRows; row++) {
                const float *pair = x + x_place[row] + i;
                for (int j = 0; j < 2; j++) {
                    even[row][j] = fma(broadcast(pair[0]), above[j], even[row][j]);
                    odd[row][j] = fma(broadcast(pair[1]), below[j], odd[row][j]);
                }
            }
        }
        Register sums[kRows][2];
        for (int row = 0; row < kRows; row++) {
            for (int j = 0; j < 2; j++) {
                sums[row][j] = load_register(y + y_place[row] + j * kRegister) + (even[row][j] + odd[row][j]);
            }
        }
        for (int row = 0; row < kRows; row++) {
            for (int j = 0; j < 2; j++) store(y + y_place[row] + j * kRegister, sums[row][j]);
        }
    }

    int width_;
    float *keys_, *values_;  // by the span's place in the split: [width][32], [32][width]
    float *scores_;          // [16 queries][256]; weights later
    uint32_t keys_ready_ = 0, values_ready_ = 0;  // bits of spans
};

}  // namespace tiercel::TIERCEL_LEVEL
