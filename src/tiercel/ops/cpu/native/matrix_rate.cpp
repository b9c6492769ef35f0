// The most multiply-adds per second that one thread gets out of a level's own instructions: a loop over registers, no memory.
// bf16 means what products of bf16 weights are made of: tiles at AMX, else float32 FMA on lanes. int8: tiles, VNNI, or AVX2's
// multiply-and-add of neighbours.

#include <chrono>

#include "kernels.h"
#include "simd.h"
#ifdef __AMX_TILE__
#include "tile.h"
#endif

namespace tiercel::TIERCEL_LEVEL {
namespace {

constexpr double kSeconds = 0.05;
constexpr int kSteps = 2000;

// Repeats `steps`, kSteps times as many as `operations` speaks of, for a while.
template <typename Steps> double rate(double operations, Steps steps) {
    using Clock = std::chrono::steady_clock;
    int64_t rounds = 0;
    double seconds = 0;
    const Clock::time_point start = Clock::now();
    for (; seconds < kSeconds; rounds++) {
        steps();
        seconds = std::chrono::duration<double>(Clock::now() - start).count();
    }
    return double(rounds) * kSteps * operations / seconds;
}

#ifdef __AMX_TILE__

// Four tiles of results from two by two tiles of factors, as a product has them.
double bf16_rate() {
    return rate(4 * 2.0 * 16 * 16 * 32, [] {
        for (int i = 0; i < kSteps; i++) {
            tile_multiply_bf16<0, 4, 6>();
            tile_multiply_bf16<1, 4, 7>();
            tile_multiply_bf16<2, 5, 6>();
            tile_multiply_bf16<3, 5, 7>();
        }
    });
}

double int8_rate() {
    return rate(4 * 2.0 * 16 * 16 * 64, [] {
        for (int i = 0; i < kSteps; i++) {
            tile_multiply_int8<0, 4, 6>();
            tile_multiply_int8<1, 4, 7>();
            tile_multiply_int8<2, 5, 6>();
            tile_multiply_int8<3, 5, 7>();
        }
    });
}

#else

// Enough sums in flight for the latency of two units; they and the factors fit the registers.
#ifdef __AVX512F__
constexpr int kSums = 12;
using Integers = __m512i;
inline Integers multiply_add(Integers sum, Integers a, Integers b) { return _mm512_dpbusd_epi32(sum, a, b); }
#else
constexpr int kSums = 6;
using Integers = __m256i;
inline Integers multiply_add(Integers sum, Integers a, Integers b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
}
#endif

// Makes the compiler believe that a register changes here, and that somebody reads it.
inline Integers touched(Integers value) {
    asm volatile("" : "+x"(value));
    return value;
}
#ifdef __AVX512F__
inline F32 touched(F32 value) {
    asm volatile("" : "+x"(value.v));
    return value;
}
#else
inline F32 touched(F32 value) {
    asm volatile("" : "+x"(value.lo), "+x"(value.hi));
    return value;
}
#endif

double bf16_rate() {
    return rate(kSums * 2.0 * kLanes, [] {
        F32 a = zero(), b = touched(zero()), sums[kSums] = {};
        for (int step = 0; step < kSteps; step++) {
            for (int i = 0; i < kSums; i++) a = touched(a), sums[i] = touched(fma(a, b, sums[i]));
        }
    });
}

double int8_rate() {
    return rate(kSums * 2.0 * sizeof(Integers), [] {
        Integers a{}, b = touched(a), sums[kSums] = {};
        for (int step = 0; step < kSteps; step++) {
            for (int i = 0; i < kSums; i++) a = touched(a), sums[i] = touched(multiply_add(sums[i], a, b));
        }
    });
}

#endif

}  // namespace

double matrix_rate(int32_t kind) {
#ifdef __AMX_TILE__
    const Tiles tiles({16, 16, 16, 16, 16, 16, 16, 16});
#endif
    return kind == 1 ? bf16_rate() : int8_rate();
}

}  // namespace tiercel::TIERCEL_LEVEL
