// The two products of attention on vectors, in the order of the matrix tiles; see attention.cpp.

#pragma once

#include "attention_keys.h"
#include "simd.h"

namespace tiercel::TIERCEL_LEVEL {

// One register, so that a tile of up to 8 queries costs AVX2 no second one.
#ifdef __AVX512F__
using Register = F32;
inline Register load_register(const float *p) { return load(p); }
inline Register broadcast(float x) { return all(x); }
#else
struct Register {
    __m256 v;
};
inline Register load_register(const float *p) { return {_mm256_loadu_ps(p)}; }
inline Register broadcast(float x) { return {_mm256_set1_ps(x)}; }
inline Register fma(Register a, Register b, Register c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Register operator+(Register a, Register b) { return {_mm256_add_ps(a.v, b.v)}; }
inline void store(float *p, Register a) { _mm256_storeu_ps(p, a.v); }
#endif
constexpr int kRegister = sizeof(Register) / sizeof(float);

class Products {
  public:
    // Queries: float32 [width][16 lanes].
    static int64_t query_bytes(int width) { return int64_t(width) * kLanes * int64_t(sizeof(float)); }
    static int64_t scratch_bytes(int width) { return int64_t(kSpan) * width * int64_t(sizeof(float)); }

    Products(int width, uint8_t *scratch) : width_(width), wide_(reinterpret_cast<float *>(scratch)) {}

    static void pack_query(const uint16_t *query, int width, int lane, uint8_t *tile) {
        auto *values = reinterpret_cast<uint32_t *>(tile);
        for (int d = 0; d < width; d++) values[d * kLanes + lane] = uint32_t(query[d]) << 16;
    }

    // Values are widened when they are used.
    void prepare(int span, const uint16_t *values) { values_[span] = values; }

    // scores [32][16] = keys [32, width] times queries; only the first `lanes` of each 16 are needed.
    void scores(const uint8_t *query, const uint16_t *keys, int lanes, float *scores) const {
        widen(keys);
        for (int lane = 0; lane < lanes; lane += kRegister) {
            const float *q = reinterpret_cast<const float *>(query) + lane;
            for (int key = 0; key < kSpan; key += 4) scores_of_four(q, wide_ + key * width_, scores + key * kLanes + lane);
        }
    }

    // values [16][width] = weights, [count][32][16], times the values of `count` prepared spans; only `lanes` rows are needed.
    void weighted_values(const float *weights, const int *spans, int count, int lanes, float *values) {
        for (int i = 0; i < (lanes + 1) / 2 * 2 * width_; i += kLanes) store(values + i, zero());
        for (int i = 0; i < count; i++, weights += kSpan * kLanes) {
            widen(values_[spans[i]]);
            for (int lane = 0; lane < lanes; lane += 2) {
                for (int d = 0; d < width_; d += 2 * kRegister) {
                    add_two_lanes(weights + lane, wide_ + d, values + lane * width_ + d);
                }
            }
        }
    }

  private:
    void widen(const uint16_t *rows) const {
        for (int i = 0; i < kSpan * width_; i += kLanes) store(wide_ + i, load_bf16(rows + i));
    }

    // Four keys' scores for one register of lanes.
    void scores_of_four(const float *q, const float *keys, float *scores) const {
        Register total[4] = {};
        for (int block = 0; block < width_; block += 32) {
            Register even[4] = {}, odd[4] = {};
            for (int d = block; d < block + 32; d += 2) {
                Register q_even = load_register(q + d * kLanes), q_odd = load_register(q + (d + 1) * kLanes);
                for (int i = 0; i < 4; i++) {
                    even[i] = fma(broadcast(keys[i * width_ + d]), q_even, even[i]);
                    odd[i] = fma(broadcast(keys[i * width_ + d + 1]), q_odd, odd[i]);
                }
            }
            for (int i = 0; i < 4; i++) total[i] = total[i] + (even[i] + odd[i]);
        }
        for (int i = 0; i < 4; i++) store(scores + i * kLanes, total[i]);
    }

    // Adds a span to two registers of columns of two lanes.
    void add_two_lanes(const float *weights, const float *rows, float *values) const {
        Register even[4] = {}, odd[4] = {};
        for (int key = 0; key < kSpan; key += 2) {
            const float *w = weights + key * kLanes, *v = rows + key * width_;
            for (int i = 0; i < 4; i++) {
                even[i] = fma(broadcast(w[i / 2]), load_register(v + i % 2 * kRegister), even[i]);
                odd[i] = fma(broadcast(w[kLanes + i / 2]), load_register(v + width_ + i % 2 * kRegister), odd[i]);
            }
        }
        for (int i = 0; i < 4; i++) {
            float *to = values + i / 2 * width_ + i % 2 * kRegister;
            store(to, load_register(to) + (even[i] + odd[i]));
        }
    }

    int width_;
    float *wide_;  // a span's keys or values, float32 [32, width]
    const uint16_t *values_[kSpans];
};

}  // namespace tiercel::TIERCEL_LEVEL
