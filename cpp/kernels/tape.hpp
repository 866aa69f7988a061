// Calls of kernels with the places of their operands, kept to be made again: a small network makes the same ones in every step, and
// working them out was an eighth of the instructions of a step of 8-32-32-1 with a batch of 32.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

namespace fastopt {

class Tape {
   public:
    Tape() = default;
    Tape(const Tape&) = delete;
    Tape& operator=(const Tape&) = delete;

    // Memory for the first calls.
    void reserve() {
        if (blocks_.empty()) {
            blocks_.push_back(std::make_unique<Block>());
        }
    }
    // `call` has its turn in every `play`.
    template <class F>
    void keep(const F& call) {
        static_assert(std::is_trivially_destructible_v<F> && sizeof(CallOf<F>) <= sizeof(Block));
        auto* const kept = new (place(sizeof(CallOf<F>))) CallOf<F>(call);
        (last_ == nullptr ? first_ : last_->next) = kept;
        last_ = kept;
    }
    void play() const {
        for (const Call* call = first_; call != nullptr; call = call->next) {
            call->make(call);
        }
    }
    // Its memory stays.
    void clear() {
        first_ = last_ = nullptr;
        block_ = 0;
        used_ = 0;
    }

   private:
    struct Call {
        void (*make)(const Call* self);
        Call* next = nullptr;
    };
    template <class F>
    struct CallOf : Call {
        explicit CallOf(const F& call) : Call{[](const Call* self) { static_cast<const CallOf*>(self)->call_(); }}, call_(call) {}
        F call_;
    };
    struct alignas(std::max_align_t) Block {
        std::byte bytes[4096];
    };

    void* place(std::size_t bytes) {
        bytes = (bytes + alignof(Block) - 1) / alignof(Block) * alignof(Block);
        if (used_ + bytes > sizeof(Block)) {
            ++block_;
            used_ = 0;
        }
        if (block_ == blocks_.size()) {
            blocks_.push_back(std::make_unique<Block>());
        }
        used_ += bytes;
        return blocks_[block_]->bytes + (used_ - bytes);
    }

    std::vector<std::unique_ptr<Block>> blocks_;
    std::size_t block_ = 0;  // that the next call goes to, behind so many bytes
    std::size_t used_ = 0;
    Call* first_ = nullptr;
    Call* last_ = nullptr;
};

// Make a call, and keep it where there is a tape.
template <class F>
void make_call(Tape* tape, const F& call) {
    call();
    if (tape != nullptr) {
        tape->keep(call);
    }
}

}  // namespace fastopt
