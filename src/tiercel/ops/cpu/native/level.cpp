// Which instruction sets this processor has and this system lets a process use. What each level asks for is what the build
// compiles its kernels with (setup.py).

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "api.h"

namespace tiercel {
namespace {

struct Leaf {
    uint32_t a = 0, b = 0, c = 0, d = 0;
    Leaf(uint32_t leaf, uint32_t subleaf) { __get_cpuid_count(leaf, subleaf, &a, &b, &c, &d); }
};

constexpr bool has(uint32_t bits, uint32_t wanted) { return (bits & wanted) == wanted; }
constexpr uint32_t bit(int number) { return 1u << number; }

// The register files that the system saves for a process (XCR0).
uint32_t saved_state() {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

// Linux grants the tiles' registers to processes that ask (Documentation/arch/x86/xstate.rst). Asking twice does no harm.
bool tiles_granted() {
    constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

int32_t find_level() {
    const Leaf one(1, 0), seven(7, 0), seven_more(7, 1);
    const uint32_t osxsave = bit(27), fma = bit(12), f16c = bit(29), avx = bit(28);
    if (!has(one.c, osxsave | fma | f16c | avx)) return -1;
    const uint32_t saved = saved_state(), vectors = bit(1) | bit(2), masks = bit(5) | bit(6) | bit(7), tiles = bit(17) | bit(18);
    const uint32_t avx2 = bit(5), bmi2 = bit(8);
    if (!has(seven.b, avx2 | bmi2) || !has(saved, vectors)) return -1;
    const uint32_t f = bit(16), dq = bit(17), bw = bit(30), vl = bit(31), vbmi = bit(1), vnni = bit(11);
    if (!has(seven.b, f | dq | bw | vl) || !has(seven.c, vbmi | vnni) || !has(saved, masks)) return TIERCEL_AVX2;
    const uint32_t bf16 = bit(5), amx_bf16 = bit(22), amx_tile = bit(24), amx_int8 = bit(25);
    if (!has(seven_more.a, bf16) || !has(seven.d, amx_bf16 | amx_tile | amx_int8)) return TIERCEL_AVX512;
    if (!has(saved, tiles) || !tiles_granted()) return TIERCEL_AVX512;
    return TIERCEL_AMX;
}

}  // namespace
}  // namespace tiercel

extern "C" int32_t tiercel_abi(void) { return TIERCEL_ABI; }

extern "C" int32_t tiercel_best_level(void) {
    static const int32_t level = tiercel::find_level();
    return level;
}
