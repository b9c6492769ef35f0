// Runs a program: turns each instruction into a kernel's job and lets the whole pool do it.

#include <new>
#include <chrono>
#include <memory>
#include <vector>

#include "activations.h"
#include "packing.h"
#include "pool.h"

namespace tiercel {
namespace {

// What the threads of a run share.
struct Run {
    const Kernels &kernels;
    const tiercel_program &program;
    const tiercel_step &step;
    int32_t first, last;
    std::vector<Counter> counters;  // one per instruction
};

struct Operand {
    float *data;
    int64_t stride;  // floats
};

class Builder {
  public:
    Builder(const Run &run, const tiercel_instruction &instruction) : run_(run), i_(instruction) {}

    int32_t rows() const { return i_.samples ? run_.step.samples : run_.step.rows; }

    Operand operand(const tiercel_value &value) const {
        if (value.buffer < 0) return {nullptr, 0};
        const tiercel_buffer &buffer = run_.program.buffers[value.buffer];
        return {reinterpret_cast<float *>(buffer.data) + value.offset, buffer.row_bytes / int64_t(sizeof(float))};
    }

    uint8_t *bytes(int32_t buffer) const { return buffer < 0 ? nullptr : run_.program.buffers[buffer].data; }
    int64_t row_bytes(int32_t buffer) const { return buffer < 0 ? 0 : run_.program.buffers[buffer].row_bytes; }

    Result result() const {
        Operand out = operand(i_.out);
        return {out.data, out.stride, reinterpret_cast<uint16_t *>(bytes(i_.out_bf16)),
                bytes(i_.out_q8), row_bytes(i_.out_q8), bytes(i_.out_i8), rows()};
    }

    const tiercel_matrix *matrices(int32_t constant) const {
        return run_.program.matrices + run_.program.constants[i_.constant[constant]].first_matrix;
    }
    int32_t num_matrices(int32_t constant) const { return run_.program.constants[i_.constant[constant]].num_matrices; }
    // A vector, or a table of a rope constant. Vectors that were joined lie one after the other.
    const float *floats(int32_t constant, int32_t matrix = 0) const {
        if (i_.constant[constant] < 0) return nullptr;
        return reinterpret_cast<const float *>(matrices(constant)[matrix].data);
    }

  private:
    const Run &run_;
    const tiercel_instruction &i_;
};

void execute(const Run &run, const tiercel_instruction &i, const Worker &worker) {
    const Builder at(run, i);
    const Kernels &k = run.kernels;
    const tiercel_step &step = run.step;
    const Operand a = at.operand(i.in[0]), b = at.operand(i.in[1]), out = at.operand(i.out);
    const int32_t rows = at.rows(), channels = i.in[0].channels;
    switch (i.op) {
        case TIERCEL_EMBEDDING: k.embedding({step.token_ids, rows, at.matrices(0), at.result()}, worker); break;
        case TIERCEL_ADD: k.add({a.data, b.data, a.stride, b.stride, rows, channels, at.result()}, worker); break;
        case TIERCEL_RMS_NORM:
            k.rms_norm({a.data, a.stride, rows, channels, at.floats(0), at.matrices(0)->columns, i.real, at.result()}, worker);
            break;
        case TIERCEL_LINEAR:
            k.linear({at.matrices(0), at.num_matrices(0), rows, reinterpret_cast<const uint16_t *>(at.bytes(i.in_bf16)),
                      at.bytes(i.in_q8), at.row_bytes(i.in_q8), at.bytes(i.in_i8), at.floats(1),
                      a.data, a.stride, out.data, out.stride},
                     worker);
            break;
        case TIERCEL_ROPE: {
            const tiercel_matrix *tables = at.matrices(0);
            k.rope({a.data, a.stride, rows, channels, step.positions, at.floats(0, 0), at.floats(0, 1), 2 * tables->columns,
                    run.program.constants[i.constant[0]].interleaved != 0, out.data, out.stride},
                   worker);
            break;
        }
        case TIERCEL_SILU_MUL: k.silu_mul({a.data, b.data, a.stride, b.stride, rows, channels, at.result()}, worker); break;
        case TIERCEL_KV_WRITE:
            k.kv_write({a.data, b.data, a.stride, b.stride, rows, step.groups + i.group, i.layer}, worker);
            break;
        case TIERCEL_ATTENTION:
            k.attention({a.data, a.stride, rows, i.heads, i.layer, i.window, i.sink_tokens, i.real, step.groups + i.group,
                         out.data, out.stride, b.data, b.stride},
                        worker);
            break;
        case TIERCEL_SELECT_ROWS:
            k.convert({a.data, a.stride, step.samples, channels, step.sample_rows, at.result()}, worker);
            break;
        case TIERCEL_CONVERT: k.convert({a.data, a.stride, rows, channels, nullptr, at.result()}, worker); break;
        default: break;  // refused by `tiercel_run`
    }
}

void work(void *context, const Worker &thread) {
    Run &run = *static_cast<Run *>(context);
    double *seconds = thread.index == 0 ? run.step.seconds : nullptr;
    std::chrono::steady_clock::time_point start;
    if (seconds) start = std::chrono::steady_clock::now();
    for (int32_t number = run.first; number < run.last; number++) {
        const tiercel_instruction &instruction = run.program.instructions[number];
        Worker worker = thread;
        worker.counter = &run.counters[number - run.first].next;
        if (instruction.barrier) worker.barrier();
        execute(run, instruction, worker);
        if (seconds) {
            auto now = std::chrono::steady_clock::now();
            seconds[number] += std::chrono::duration<double>(now - start).count();
            start = now;
        }
    }
}

bool in_range(const tiercel_program &program, const tiercel_step &step, const tiercel_instruction &i) {
    auto buffer = [&](int32_t n) { return n >= -1 && n < program.num_buffers; };
    auto constant = [&](int32_t n) { return n >= -1 && n < program.num_constants; };
    bool grouped = i.op == TIERCEL_KV_WRITE || i.op == TIERCEL_ATTENTION;
    return i.op >= 0 && i.op < TIERCEL_OPS && buffer(i.in[0].buffer) && buffer(i.in[1].buffer) && buffer(i.out.buffer) &&
           buffer(i.in_bf16) && buffer(i.in_q8) && buffer(i.in_i8) && buffer(i.out_bf16) && buffer(i.out_q8) &&
           buffer(i.out_i8) && constant(i.constant[0]) && constant(i.constant[1]) &&
           (!grouped || (i.group >= 0 && i.group < step.num_groups));
}

}  // namespace
}  // namespace tiercel

extern "C" int32_t tiercel_run(tiercel_pool *pool, const tiercel_program *program, const tiercel_step *step, int32_t first,
                               int32_t last) {
    for (int32_t number = first; number < last; number++) {
        if (!tiercel::in_range(*program, *step, program->instructions[number])) return number + 1;
    }
    tiercel::Run run{tiercel::kernels(pool->team.level()), *program, *step, first, last,
                     std::vector<tiercel::Counter>(last - first)};
    pool->team.run(tiercel::work, &run);
    return 0;
}
