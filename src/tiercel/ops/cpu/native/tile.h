// The tile registers of AMX: eight of up to 16 rows of 64 bytes. Only for files compiled with AMX.
//
// Everything here is inline assembly with a memory clobber: GCC 12's own intrinsics do not say that they read and write memory,
// and it drops the stores in front of them.

#pragma once

#include <cstdint>

#ifndef TIERCEL_LEVEL
#define TIERCEL_LEVEL amx  // for editors
#endif

namespace tiercel::TIERCEL_LEVEL {

// The shapes of this thread's tiles, from here to the end of the scope. Loading takes about a hundred cycles.
class Tiles {
  public:
    explicit Tiles(const uint8_t (&rows)[8], const uint16_t (&row_bytes)[8] = {64, 64, 64, 64, 64, 64, 64, 64}) {
        struct alignas(64) {
            uint8_t palette, start_row, reserved[14];
            uint16_t row_bytes[16];
            uint8_t rows[16];
        } shape{};
        shape.palette = 1;
        for (int tile = 0; tile < 8; tile++) shape.row_bytes[tile] = row_bytes[tile], shape.rows[tile] = rows[tile];
        asm volatile("ldtilecfg %0" ::"m"(shape) : "memory");
    }
    ~Tiles() { asm volatile("tilerelease" ::: "memory"); }  // a thread without tiles is cheaper to switch
    Tiles(const Tiles &) = delete;
    Tiles &operator=(const Tiles &) = delete;
};

template <int tile> inline void tile_zero() { asm volatile("tilezero %%tmm%c0" ::"i"(tile)); }

// stride: bytes from row to row in memory.
template <int tile> inline void tile_load(const void *memory, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(memory), "r"(stride), "i"(tile) : "memory");
}
template <int tile> inline void tile_store(void *memory, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(memory), "r"(stride), "i"(tile) : "memory");
}

// c [rows, 16] float32 += a [rows, 32] times b [16 column pairs, 16, 2], bf16.
template <int c, int a, int b> inline void tile_multiply_bf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
}
// c [rows, 16] int32 += a [rows, 64] int8 times b [16 column quads, 16, 4] int8.
template <int c, int a, int b> inline void tile_multiply_int8() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
}

}  // namespace tiercel::TIERCEL_LEVEL
