// Driver of elementwise update rules: one pass that reads w, g and the slots, and writes w and the slots.
//
// A rule offers
//     static constexpr int slots;
//     explicit Rule(const Config&);
//     auto constants<T>(const StepInfo&, double learning_rate, bool decay) const;   // what the element formula needs, in T
//     static void apply(const constants&, Vec<T>& w, Vec<T> g, Vec<T>* s);          // the element formula
// or, with takes_root, that in two pieces, so that roots are taken of several Vecs together:
//     static Vec<T> advance(const constants&, Vec<T> g, Vec<T>* s);                   // what the root is of
//     static void finish(const constants&, Vec<T>& w, Vec<T> g, const Vec<T>* s, Vec<T> root);
// With squares_gradient, g is limited to what has a square. A rule inherits the names of its slots and scalars from RuleBase, overriding
// what differs, or from WeightDecay when it has one.
#pragma once

#include <algorithm>

#include "core/threads.hpp"
#include "kernels/roots.hpp"
#include "kernels/simd.hpp"
#include "optimizers/optimizer.hpp"

namespace fastopt {

// The gradient transform on Vecs.
template <class T>
struct VecTransform {
    simd::Vec<T> l1;
    simd::Vec<T> twice_l2;
    simd::Vec<T> limit;
    simd::Vec<T> scale;

    explicit VecTransform(const GradientTransform& t)
        : l1(simd::set1(static_cast<T>(t.l1))),
          twice_l2(simd::set1(static_cast<T>(2 * t.l2))),
          limit(simd::set1(t.clip_value > 0 ? static_cast<T>(t.clip_value) : std::numeric_limits<T>::infinity())),
          scale(simd::set1(static_cast<T>(t.scale))) {}

    FASTOPT_INLINE simd::Vec<T> operator()(const simd::Vec<T>& w, const simd::Vec<T>& g) const {
        using namespace simd;
        const Vec<T> whole = fma(twice_l2, w, fma(l1, sign(w), g));
        return max(min(whole, limit), -limit) * scale;
    }
};

// Defaults for a rule without scalars and without weight decay.
struct RuleBase {
    static constexpr bool coupled_decay = false;
    static constexpr bool takes_root = false;
    static constexpr bool squares_gradient = false;
    std::vector<std::string> scalar_names() const { return {}; }
    std::vector<double> initial_scalars() const { return {}; }
    double initial_slot(int) const { return 0; }
    bool decays_alike() const { return true; }
    bool needs_norm() const { return false; }
    void begin(StepInfo&) const {}
    static constexpr int evaluation_slot = -1;
};

// A rule with weight decay. Coupled: the driver adds decay w to the gradient, and only when there is one. Else the rule's formula has it.
template <bool Coupled>
class WeightDecay : public RuleBase {
   public:
    static constexpr bool coupled_decay = Coupled;

    explicit WeightDecay(const Config& config) : weight_decay_(config.number("weight_decay")), decay_all_(config.flag("decay_all")) {}

    bool decays_alike() const { return decay_all_ || weight_decay_ == 0; }
    double decay_where(bool decays) const { return decays ? weight_decay_ : 0; }

   private:
    double weight_decay_;
    bool decay_all_;
};

// Where a pass reads and writes, from its first element on.
template <class T>
struct Places {
    T* w;
    const T* g;
    T* slot[max_slots];
};

// What is done to whole lines of `count` elements. Only this loop is compiled for every rule.
template <class T>
struct LinePass {
    void (*lines)(const void* element, const Places<T>& at, Index count);
    const void* element;
    int slots;
};

// `count` elements from `first` on, in a line of their own; zeros behind them.
template <class T>
void part_of_line(const LinePass<T>& pass, const Places<T>& at, Index first, Index count) {
    alignas(cache_line) T memory[max_slots + 2][simd::Vec<T>::lanes];
    Places<T> line{memory[0], memory[1], {}};
    simd::store(line.w, simd::load_partial(at.w + first, count));
    simd::store(memory[1], simd::load_partial(at.g + first, count));
    for (int s = 0; s < pass.slots; ++s) {
        line.slot[s] = memory[s + 2];
        simd::store(line.slot[s], simd::load_partial(at.slot[s] + first, count));
    }
    pass.lines(pass.element, line, simd::Vec<T>::lanes);
    simd::store_partial(at.w + first, simd::load(line.w), count);
    for (int s = 0; s < pass.slots; ++s) {
        simd::store_partial(at.slot[s] + first, simd::load(line.slot[s]), count);
    }
}

// Over all of a segment, by as many threads as pay, or over its parts.
template <class T>
[[gnu::noinline]] void run_pass(const LinePass<T>& pass, const Segment<T>& segment, double work) {
    constexpr Index lanes = simd::Vec<T>::lanes;
    const auto each = [&](Index begin, Index end) {
        Places<T> at{segment.w + begin, segment.g + begin, {}};
        for (int s = 0; s < pass.slots; ++s) {
            at.slot[s] = segment.slots[s] + begin;
        }
        const Index whole = (end - begin) / lanes * lanes;
        pass.lines(pass.element, at, whole);
        if (const Index rest = end - begin - whole; rest > 0) {
            part_of_line(pass, at, whole, rest);
        }
    };
    if (segment.part_count == 0) {
        parallel_for(segment.size, lanes, work, each);
    }
    for (Index p = 0; p < segment.part_count; ++p) {
        each(segment.parts[p].begin, segment.parts[p].end);
    }
}

template <class T, class Rule>
class ElementwiseOptimizer final : public Optimizer<T> {
   public:
    explicit ElementwiseOptimizer(const Config& config) : rule_(config) {}

    int slot_count() const override { return slots; }
    std::vector<std::string> slot_names() const override { return rule_.slot_names(); }
    std::vector<std::string> scalar_names() const override { return rule_.scalar_names(); }
    std::vector<double> initial_scalars() const override { return rule_.initial_scalars(); }
    double initial_slot(int slot) const override { return rule_.initial_slot(slot); }
    bool decays_alike() const override { return rule_.decays_alike(); }
    bool needs_norm() const override { return rule_.needs_norm(); }
    int evaluation_slot() const override { return Rule::evaluation_slot; }
    void begin(StepInfo& info) const override { rule_.begin(info); }

    void update(const StepInfo& info, const Segment<T>& segment) const override {
        const auto constants = rule_.template constants<T>(info, info.learning_rate * segment.multiplier, segment.decay);
        const double work = this->work(segment.size);
        if (segment.transform.active()) {
            const VecTransform<T> transform(segment.transform);
            with_decay(segment, work, transform, constants);
        } else {
            with_decay(
                segment, work, [](const simd::Vec<T>&, const simd::Vec<T>& g) FASTOPT_INLINE_LAMBDA { return g; }, constants);
        }
    }

   private:
    template <class Transform, class Constants>
    void with_decay(const Segment<T>& segment, double work, const Transform& transform, const Constants& constants) const {
        using simd::Vec;
        if constexpr (Rule::coupled_decay) {
            if (const double factor = rule_.decay_where(segment.decay); factor != 0) {
                const Vec<T> decay = simd::set1(static_cast<T>(factor));
                const auto decayed = [=](const Vec<T>& w, const Vec<T>& g)
                                         FASTOPT_INLINE_LAMBDA { return simd::fma(decay, w, transform(w, g)); };
                run_lines(segment, work, Element<decltype(decayed), Constants>{decayed, constants});
                return;
            }
        }
        run_lines(segment, work, Element<Transform, Constants>{transform, constants});
    }

    // What is done to each Vec: the gradient that the rule sees, and the rule.
    template <class Gradient, class Constants>
    struct Element {
        Gradient gradient;
        Constants constants;
    };

    template <class F>
    static void run_lines(const Segment<T>& segment, double work, const F& element) {
        run_pass(LinePass<T>{lines<F>, &element, slots}, segment, work);
    }

    static constexpr int slots = Rule::slots;
    static_assert(slots <= max_slots);

    static FASTOPT_INLINE void load_slots(const Places<T>& at, Index i, simd::Vec<T>* state) {
#pragma GCC unroll 4
        for (int s = 0; s < slots; ++s) {
            state[s] = simd::load(at.slot[s] + i);
        }
    }
    static FASTOPT_INLINE void store_slots(const Places<T>& at, Index i, const simd::Vec<T>* state) {
#pragma GCC unroll 4
        for (int s = 0; s < slots; ++s) {
            simd::store(at.slot[s] + i, state[s]);
        }
    }

    // Of a gradient that has no square, the step is that of the largest one that has.
    template <class F>
    static FASTOPT_INLINE simd::Vec<T> gradient_of(const F& element, const simd::Vec<T>& value, const T* g) {
        const simd::Vec<T> gradient = element.gradient(value, simd::load(g));
        return Rule::squares_gradient ? simd::squarable(gradient) : gradient;
    }

    // So many lines whose roots are taken together, `Products` of them from multiply-adds. Where that is all, what the rest needs would not
    // fit the registers and is read again.
    template <int Products, class F>
    static FASTOPT_INLINE void lines_together(const F& element, const Places<T>& own, Index i) {
        using simd::Vec;
        constexpr int count = simd::root_group;
        Vec<T> value[count];
        Vec<T> gradient[count];
        Vec<T> state[count][slots + 1];
        Vec<T> square[count];
        Vec<T> root[count];
#pragma GCC unroll 4
        for (int l = 0; l < count; ++l) {
            const Index at = i + l * Vec<T>::lanes;
            value[l] = simd::load(own.w + at);
            load_slots(own, at, state[l]);
            gradient[l] = gradient_of(element, value[l], own.g + at);
            square[l] = Rule::advance(element.constants, gradient[l], state[l]);
            store_slots(own, at, state[l]);
        }
        simd::roots_together<Products>(square, root);
#pragma GCC unroll 4
        for (int l = 0; l < count; ++l) {
            const Index at = i + l * Vec<T>::lanes;
            if constexpr (Products == count) {
                value[l] = simd::load(own.w + at);
                load_slots(own, at, state[l]);
            }
            Rule::finish(element.constants, value[l], gradient[l], state[l], root[l]);
            simd::store(own.w + at, value[l]);
        }
    }

    template <int Products, class F>
    static FASTOPT_INLINE Index groups_of_lines(const F& element, const Places<T>& own, Index count) {
        constexpr Index step = simd::root_group * simd::Vec<T>::lanes;
        Index i = 0;
        for (; i + step <= count; i += step) {
            lines_together<Products>(element, own, i);
        }
        return i;
    }

    template <class F>
    static void lines(const void* shared, const Places<T>& at, Index count) {
        using simd::Vec;
        const F element = *static_cast<const F*>(shared);  // copies of its own: no store below can change them, so they stay in registers
        const Places<T> own = at;
        Index i = 0;
        if constexpr (Rule::takes_root && std::is_same_v<T, float> && simd::takes_roots_from_products) {
            const int products = simd::roots_from_products();
            i = products == simd::root_group ? groups_of_lines<simd::root_group>(element, own, count)
                : products == 1              ? groups_of_lines<1>(element, own, count)
                                             : 0;
        }
        for (; i < count; i += Vec<T>::lanes) {
            Vec<T> value = simd::load(own.w + i);
            Vec<T> state[slots + 1];
            load_slots(own, i, state);
            const Vec<T> gradient = gradient_of(element, value, own.g + i);
            if constexpr (Rule::takes_root) {
                const Vec<T> root = simd::sqrt(Rule::advance(element.constants, gradient, state));
                Rule::finish(element.constants, value, gradient, state, root);
            } else {
                Rule::apply(element.constants, value, gradient, state);
            }
            simd::store(own.w + i, value);
            store_slots(own, i, state);
        }
    }

    Rule rule_;
};

}  // namespace fastopt
