// Holds every code path of the library's C interface against reference.h. Run as
//   harness paths            names the paths that this processor runs
//   harness MODE SEED COUNT  prints how many scores were held, or the first that is wrong and exits with 1
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <thread>

#include "tables.h"

namespace {

long num_checked = 0;

#define REQUIRE(condition, ...)                            \
  do {                                                     \
    if (!(condition)) {                                    \
      fprintf(stderr, "%s: ", #condition);                 \
      fprintf(stderr, __VA_ARGS__);                        \
      fprintf(stderr, "\n");                               \
      exit(1);                                             \
    }                                                      \
  } while (false)

std::vector<std::string> path_names() {
  std::vector<std::string> names;
  for (const char* const* name = rt_paths(); *name != nullptr; ++name) names.emplace_back(*name);
  return names;
}

std::string text(const rt_shape& s) {
  char line[160];
  snprintf(line, sizeof line, "Hu %d Hi %d D %d A %d %s %s activation %d", s.user_heads, s.item_heads, s.width,
           s.attention_width, s.is_float16 ? "float16" : "float32", s.is_projected ? "projected" : "raw", s.activation);
  return line;
}

struct Scorer {
  Scorer(const ReferenceModel& model, const std::string& path) {
    // Gone before anything is scored: the library keeps copies.
    const Constants constants(model);
    handle = rt_scorer_open(&model.shape, &constants.weights, path.c_str());
    REQUIRE(handle != nullptr, "%s", path.c_str());
  }
  Scorer(const Scorer&) = delete;
  ~Scorer() { rt_scorer_close(handle); }

  std::vector<float> score(const Table& user, const Table& items, const std::vector<int64_t>& chosen) const {
    std::vector<float> scores(chosen.size());
    const int64_t done = rt_score(handle, user.start(), items.start(), items.num_rows, items.row_bytes, chosen.data(),
                                  (int64_t)chosen.size(), scores.data());
    REQUIRE(done == -1, "%lld", (long long)done);
    return scores;
  }

  rt_scorer* handle;
};

// A model, one user and some items, with their scores by the reference.
struct Case {
  ReferenceModel model;
  Table user, items;
  Doubles wanted;

  Case(const rt_shape& shape, Random& random, int num_rows, double range = 1.7)
      : model(shape, random), user(shape, true, 1), items(shape, false, num_rows, 2 * random.of(0, 3)) {
    user.fill(random, -1.7, 1.7);
    items.fill(random, -range, range);
    compute();
  }

  void compute() {
    const Side side = model.user(user.values(0));
    wanted.clear();
    for (int64_t row = 0; row < items.num_rows; ++row) {
      wanted.push_back(model.score(side, model.item(items.values(row))));
    }
  }

  void hold(const std::string& path, const std::vector<int64_t>& chosen, const std::vector<float>& scores) const {
    // float32 has 6e-8. Sums of hundreds of products, LayerNorm of few numbers and the rough roots take from it.
    const double allowed = 1e-6 * model.most() * (model.shape.width < 8 ? 100 : 1);
    std::map<int64_t, float> seen;
    for (size_t i = 0; i < chosen.size(); ++i, ++num_checked) {
      const double expected = wanted[chosen[i]];
      REQUIRE(std::fabs(scores[i] - expected) <= allowed, "%s, %s, row %lld at %zu of %zu: %.9g, expected %.9g",
              path.c_str(), text(model.shape).c_str(), (long long)chosen[i], i, chosen.size(), (double)scores[i],
              expected);
      const float first = seen.emplace(chosen[i], scores[i]).first->second;
      REQUIRE(first == scores[i], "%s: row %lld scored twice", path.c_str(), (long long)chosen[i]);
    }
  }
};

rt_shape random_shape(Random& random, int most_heads, int most_width) {
  const auto width = [&] { return random.of(0, 9) == 0 ? random.of(1, 7) : random.of(8, most_width); };
  return {random.of(1, most_heads), random.of(1, most_heads), width(), width(), random.of(0, 1), random.of(0, 1),
          random.of(0, 2)};
}

// Row numbers in any order, some of them twice, the last row's among them.
std::vector<int64_t> any_rows(Random& random, int64_t num_rows, int count) {
  std::vector<int64_t> chosen(count);
  for (int64_t& row : chosen) row = random.of(0, (int)num_rows - 1);
  chosen[random.of(0, count - 1)] = num_rows - 1;
  return chosen;
}

void check_models(Random& random, int count) {
  for (int i = 0; i < count; ++i) {
    rt_shape shape = i % 3 ? random_shape(random, 7, 70) : random_shape(random, 16, 256);
    if (i % 10 == 1) shape.user_heads = shape.item_heads = 4, shape.width = shape.attention_width = 32;
    if (i == 6) shape.user_heads = shape.item_heads = 16, shape.width = shape.attention_width = 256;
    const Case one(shape, random, random.of(1, i % 3 ? 9 : 3));
    for (const std::string& path : path_names()) {
      const Scorer scorer(one.model, path);
      const std::vector<int64_t> chosen = any_rows(random, one.items.num_rows, random.of(1, 65));
      one.hold(path, chosen, scorer.score(one.user, one.items, chosen));
    }
  }
}

// Every number of candidates from 1 to 65, by row numbers and as they lie.
void check_lengths(Random& random, int count) {
  for (int i = 0; i < count; ++i) {
    const Case one(random_shape(random, 4, 16), random, 65);
    for (const std::string& path : path_names()) {
      const Scorer scorer(one.model, path);
      std::vector<int64_t> in_order;
      for (int n = 1; n <= 65; ++n) {
        const std::vector<int64_t> chosen = any_rows(random, one.items.num_rows, n);
        one.hold(path, chosen, scorer.score(one.user, one.items, chosen));
        in_order.push_back(n - 1);
        std::vector<float> scores(n);
        const Table& items = one.items;
        const int64_t done = rt_score(scorer.handle, one.user.start(), items.start(), n, items.row_bytes, nullptr, n,
                                      scores.data());
        REQUIRE(done == -1, "%s", path.c_str());
        one.hold(path, in_order, scores);
      }
    }
  }
}

// Zeros and subnormal numbers, and float16's largest one in single places of embeddings.
void check_extremes(Random& random, int count) {
  for (int i = 0; i < count; ++i) {
    Case one(random_shape(random, 5, 40), random, 8);
    Table& items = one.items;
    const int embedding = one.model.shape.item_heads * one.model.shape.width;
    for (int place = 0; place < items.num_values; ++place) {
      items.set(0, place, 0.0);
      items.set(1, place, -0.0);
      items.set_bits(2, place, (uint32_t)random.of(0, 1023) | (random.of(0, 1) ? 0x8000 : 0));
      if (random.of(0, 1)) items.set_bits(3, place, (uint32_t)random.of(0, 1023));
    }
    const bool is_projected = one.model.shape.is_projected;
    if (is_projected) items.set(4, random.of(0, embedding - 1), random.of(0, 1) ? 65504.0 : -65504.0);
    one.compute();
    for (int place = 0; place < items.num_values; ++place) {
      items.set(5, place, 65504.0);
      items.set(6, place, random.of(0, 1) ? 65504.0 : -65504.0);
    }
    for (const std::string& path : path_names()) {
      const Scorer scorer(one.model, path);
      const std::vector<int64_t> moderate = {0, 1, 2, 3, 4, 7}, large = {5, 6};
      one.hold(path, moderate, scorer.score(one.user, items, moderate));
      for (const float score : scorer.score(one.user, items, large)) {
        REQUIRE(std::fabs(score) <= 1.001 * one.model.most(), "%s, %s: %g", path.c_str(), text(one.model.shape).c_str(),
                (double)score);
        ++num_checked;
      }
    }
  }
}

const std::vector<uint32_t> kBadHalves = {0x7c00, 0xfc00, 0x7e00, 0xfe00, 0x7c01, 0xffff};
const std::vector<uint32_t> kBadFloats = {0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000, 0x7f800001, 0xffffffff};

// Infinity and NaN in every place of an item's row, and of the user's.
void check_bad_values(Random& random, int count) {
  for (int i = 0; i < count; ++i) {
    rt_shape shape = random_shape(random, 3, 11);
    if (i == 1) shape.user_heads = shape.item_heads = 4, shape.width = shape.attention_width = 32;
    shape.is_float16 = i % 2, shape.is_projected = i / 2 % 2, shape.activation = i / 4 % 3;
    Case one(shape, random, 3);
    for (const std::string& path : path_names()) {
      const Scorer scorer(one.model, path);
      const std::vector<int64_t> chosen = {0, 2, 1, 2, 0};
      const std::vector<float> before = scorer.score(one.user, one.items, chosen);
      for (Table* table : {&one.items, &one.user}) {
        const int64_t row = table == &one.items ? 2 : 0;
        for (int place = 0; place < table->num_values; ++place) {
          const double good = table->get(row, place);
          for (const uint32_t bad : shape.is_float16 ? kBadHalves : kBadFloats) {
            table->set_bits(row, place, bad);
            const std::vector<float> scores = scorer.score(one.user, one.items, chosen);
            for (size_t k = 0; k < chosen.size(); ++k, ++num_checked) {
              const bool is_bad = row == 0 || chosen[k] == row;
              REQUIRE(is_bad ? !std::isfinite(scores[k]) : scores[k] == before[k], "%s, %s, %s: %x at %d: %g",
                      path.c_str(), text(shape).c_str(), row ? "item" : "user", bad, place, (double)scores[k]);
            }
          }
          table->set(row, place, good);
        }
      }
    }
  }
}

void check_refusals(Random& random, int) {
  const rt_shape shape = {2, 3, 8, 9, 1, 1, RT_SILU};
  const Case one(shape, random, 5);
  const Constants constants(one.model);
  for (int which = 0; which < 7; ++which) {
    for (const int value : {-1, 0, 17, 257, 3, INT32_MAX, INT32_MIN}) {
      rt_shape other = shape;
      int32_t* const fields[] = {&other.user_heads, &other.item_heads, &other.width, &other.attention_width};
      if (which < 4) *fields[which] = which < 2 || value != 17 ? value : 0;
      if (which >= 4) other.activation = value == 0 ? 3 : value;
      if (which < 4 && value == 3) continue;
      REQUIRE(rt_scorer_open(&other, &constants.weights, nullptr) == nullptr, "%s", text(other).c_str());
    }
  }
  REQUIRE(rt_scorer_open(&shape, &constants.weights, "avx") == nullptr, "a path that there is not");
  rt_scorer_close(nullptr);
  for (const std::string& path : path_names()) {
    const Scorer scorer(one.model, path);
    const Table& items = one.items;
    const auto score = [&](const int64_t* chosen, int64_t n, float* scores) {
      return rt_score(scorer.handle, one.user.start(), items.start(), items.num_rows, items.row_bytes, chosen, n,
                      scores);
    };
    for (const int64_t wrong : {(int64_t)5, (int64_t)-1, INT64_MAX, INT64_MIN}) {
      std::vector<float> scores(40, 7.0f);
      std::vector<int64_t> chosen = any_rows(random, 5, 40);
      chosen[39] = wrong;
      REQUIRE(score(chosen.data(), 40, scores.data()) == 39, "row %lld", (long long)wrong);
      chosen[3] = wrong;
      REQUIRE(score(chosen.data(), 40, scores.data()) == 3, "row %lld", (long long)wrong);
      for (const float untouched : scores) REQUIRE(untouched == 7.0f, "scored all the same");
    }
    REQUIRE(score(nullptr, 6, nullptr) == 5, "more rows than there are");
    REQUIRE(score(nullptr, 0, nullptr) == -1, "no candidates");
    REQUIRE(score(any_rows(random, 5, 1).data(), 0, nullptr) == -1, "no candidates");
    ++num_checked;
  }
}

// Threads score with shared scorers at once, and each opens, uses and closes ones of its own shape between.
void check_threads(Random& random, int count) {
  const Case one({4, 4, 32, 32, 1, 1, RT_SILU}, random, 40), other({3, 5, 24, 40, 0, 0, RT_GELU}, random, 40);
  for (const std::string& path : path_names()) {
    const Scorer first(one.model, path), second(other.model, path);
    std::vector<int64_t> chosen = any_rows(random, 40, 65);
    const std::vector<float> alone = first.score(one.user, one.items, chosen);
    const std::vector<float> alone_too = second.score(other.user, other.items, chosen);
    const auto work = [&](int number) {
      Random own((uint64_t)number);
      const Case large(random_shape(own, 9, 60), own, 2);
      for (int i = 0; i < count; ++i) {
        const size_t n = (size_t)own.of(1, 65);
        const std::vector<int64_t> some(chosen.begin(), chosen.begin() + n);
        const std::vector<float> scores = first.score(one.user, one.items, some);
        const std::vector<float> scores_too = second.score(other.user, other.items, some);
        const bool are_same = std::equal(scores.begin(), scores.end(), alone.begin()) &&
                              std::equal(scores_too.begin(), scores_too.end(), alone_too.begin());
        REQUIRE(are_same, "%s: thread %d", path.c_str(), number);
        if (i % 8 == number) Scorer(large.model, path).score(large.user, large.items, {0, 1, 0});
      }
    };
    std::vector<std::thread> threads;
    for (int number = 0; number < 4; ++number) threads.emplace_back(work, number);
    for (std::thread& thread : threads) thread.join();
    one.hold(path, chosen, alone);
    other.hold(path, chosen, alone_too);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "paths") {
    for (const std::string& name : path_names()) puts(name.c_str());
    return 0;
  }
  const std::map<std::string, void (*)(Random&, int)> modes = {
      {"models", check_models},         {"lengths", check_lengths},   {"extremes", check_extremes},
      {"bad_values", check_bad_values}, {"refusals", check_refusals}, {"threads", check_threads},
  };
  const auto found = modes.find(mode);
  REQUIRE(argc == 4 && found != modes.end(), "usage: harness MODE SEED COUNT");
  Random random(strtoull(argv[2], nullptr, 10));
  found->second(random, atoi(argv[3]));
  REQUIRE(num_checked > 0, "nothing was held");
  printf("%s: %ld held\n", mode.c_str(), num_checked);
}
