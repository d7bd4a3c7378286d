// Looks up ids, sound and senseless, in tables, sound and damaged, and reads them from JSON, each in a buffer that ends
// where its content does, so that AddressSanitizer sees a byte read behind it; answers are held against a search through
// all keys, and against what was written into the JSON. Run as
//   ids_driver SEED COUNT  prints how many requests were held, or the first that is wrong and exits with 1
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "ranktower_native.h"

namespace {

using Ids = std::vector<std::string>;

std::mt19937_64 generator;

int64_t below(int64_t bound) { return (int64_t)(generator() % (uint64_t)bound); }

// A copy of its exact size.
struct Exact {
  std::unique_ptr<char[]> bytes;
  explicit Exact(const std::string& content) : bytes(new char[content.size()]) {
    memcpy(bytes.get(), content.data(), content.size());
  }
};

std::string random_text(int64_t max_length, const char* letters) {
  std::string text;
  for (int64_t length = below(max_length + 1); length > 0; --length) text += letters[below((int64_t)strlen(letters))];
  return text;
}

std::string random_id(int64_t key_bytes, bool has_integers) {
  switch (below(has_integers ? 3 : 5)) {
    case 0: return std::to_string((int64_t)generator() >> below(63));
    case 1: return std::to_string(below(200) - 100);
    case 2: return random_text(22, "0123456789-:/");
    case 3: return random_text(key_bytes + 2, "ab\xc3\xff");
    default: return random_text(3 * key_bytes, "xyz");
  }
}

bool is_int64(const std::string& id) {
  char* end;
  return !id.empty() && id == std::to_string(strtoll(id.c_str(), &end, 10)) && *end == '\0';
}

struct Table {
  bool has_integers;
  int64_t key_bytes, row_bytes;
  Ids ids;                 // by row
  std::vector<bool> good;  // has the tag
  std::unique_ptr<Exact> keys, slots, rows;
  rt_ids head;
  rt_tagged_rows tagged;

  Table() : has_integers(below(3) == 0), key_bytes(has_integers ? 8 : 8 * (1 + below(below(2) ? 5 : 32))) {
    for (int64_t i = below(200); i > 0; --i) {
      const std::string id = random_id(key_bytes, has_integers);
      const bool fits = has_integers ? is_int64(id) : !id.empty() && (int64_t)id.size() <= key_bytes;
      if (fits) ids.push_back(id);
    }
    std::sort(ids.begin(), ids.end(), [this](const std::string& a, const std::string& b) {
      return has_integers ? atoll(a.c_str()) < atoll(b.c_str()) : a < b;
    });
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    row_bytes = 8 + below(40);
    std::string key_content, slot_content, row_content;
    for (const std::string& id : ids) {
      const int64_t value = atoll(id.c_str());
      key_content += has_integers ? std::string((const char*)&value, 8) : id + std::string(key_bytes - id.size(), '\0');
      good.push_back(below(4) != 0);
      row_content += (good.back() ? "release1" : "release2") + std::string(row_bytes - 8, '?');
    }
    // Slots that nobody built: nothing but a search can find a key then, and only where it is looked for.
    const int64_t kind = below(3), num_slots = 4 * (int64_t)ids.size() + 1 + below(3);
    for (int64_t i = 0; i < num_slots; ++i) {
      const uint64_t slot = kind == 0 ? 0 : kind == 1 ? generator() : (generator() << 32 | (uint64_t)below(1000));
      slot_content += std::string((const char*)&slot, 8);
    }
    keys = std::make_unique<Exact>(key_content);
    slots = std::make_unique<Exact>(slot_content);
    rows = std::make_unique<Exact>(row_content);
    const int64_t n = (int64_t)ids.size();
    head = {keys->bytes.get(), slots->bytes.get(), n, num_slots, key_bytes, has_integers};
    tagged = {rows->bytes.get(), n, row_bytes, {'r', 'e', 'l', 'e', 'a', 's', 'e', '1'}};
  }
};

std::string marshalled(const std::vector<int64_t>& values) {
  const auto number = [](int32_t value) { return std::string((const char*)&value, 4); };
  std::string list = "[" + number((int32_t)values.size());
  for (const int64_t value : values) {
    if (value == (int32_t)value) {
      list += "i" + number((int32_t)value);
      continue;
    }
    std::string digits;
    for (uint64_t left = value < 0 ? 0 - (uint64_t)value : (uint64_t)value; left != 0; left >>= 15) {
      digits += std::string{(char)(left & 0xff), (char)(left >> 8 & 0x7f)};
    }
    list += "l" + number((value < 0 ? -1 : 1) * (int32_t)(digits.size() / 2)) + digits;
  }
  return list;
}

struct Answer {
  std::unique_ptr<int64_t[]> chosen;
  std::unique_ptr<uint8_t[]> present;
  int64_t num_rejected = 0, num_found = 0;
  explicit Answer(int64_t n) : chosen(new int64_t[n]), present(new uint8_t[n]) {}
};

// A row that is given must be the id's; all must be found where so few are asked for.
bool is_right(const Table& table, const Ids& wanted, const Answer& answer, bool checks_tags) {
  int64_t num_found = 0, num_good = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const auto at = std::find(table.ids.begin(), table.ids.end(), wanted[i]);
    const bool is_there = at != table.ids.end() && (!checks_tags || table.good[at - table.ids.begin()]);
    num_good += is_there;
    if (!answer.present[i]) continue;
    if (!is_there || answer.chosen[num_found++] != at - table.ids.begin()) return false;
  }
  return num_found == answer.num_found && (wanted.size() > 8 || num_found == num_good);
}

bool is_held() {
  const Table table;
  const bool checks_tags = below(2) != 0, are_integers = below(3) == 0;
  const rt_tagged_rows* const rows = checks_tags ? &table.tagged : nullptr;
  const int64_t n = below(2) ? below(9) : below(300);
  Ids wanted;
  std::vector<int64_t> values;
  std::string joined;
  for (int64_t i = 0; i < n; ++i) {
    wanted.push_back(below(2) && !table.ids.empty() ? table.ids[below((int64_t)table.ids.size())]
                                                    : random_id(table.key_bytes, table.has_integers));
    if (are_integers) wanted.back() = std::to_string(strtoll(wanted.back().c_str(), nullptr, 10));
    values.push_back(are_integers ? atoll(wanted.back().c_str()) : 0);
    joined += (i == 0 ? "" : std::string(1, '\0')) + wanted.back();
  }
  Answer answer(n);
  const auto held = [&](int64_t num_found) {
    answer.num_found = num_found;
    return is_right(table, wanted, answer, checks_tags);
  };
  const auto texts = [&](const std::string& text, int64_t count) {
    const Exact exact(text);
    return rt_find_texts(&table.head, rows, exact.bytes.get(), (int64_t)text.size(), count, answer.chosen.get(),
                         answer.present.get(), &answer.num_rejected);
  };
  const auto list = [&](const std::string& dump) {
    const Exact exact(dump);
    return rt_find_marshalled(&table.head, rows, exact.bytes.get(), (int64_t)dump.size(), n, answer.chosen.get(),
                              answer.present.get(), &answer.num_rejected);
  };
  if (!held(texts(joined, n))) return false;
  if (are_integers) {
    const Exact exact(std::string((const char*)values.data(), 8 * n));
    if (!held(rt_find_integers(&table.head, rows, (const int64_t*)(const void*)exact.bytes.get(), n, answer.chosen.get(),
                               answer.present.get(), &answer.num_rejected))) {
      return false;
    }
    if (!held(list(marshalled(values)))) return false;
  }
  // Nothing is asked of these but to stay inside their bounds.
  std::string senseless = marshalled(values);
  for (int64_t i = below(4); i > 0 && !senseless.empty(); --i) {
    if (below(2)) senseless[below((int64_t)senseless.size())] = (char)generator();
    if (below(2)) senseless.resize(below((int64_t)senseless.size() + 1));
  }
  list(senseless);
  joined.resize(below((int64_t)joined.size() + 1));
  texts(joined, n);
  return true;
}

// What was read of an array in a text of its exact size is what was written into it; what was damaged stays in bounds.
bool is_read() {
  static const char* const spaces[] = {"", "", " ", "\n\t", "\r"};
  const auto space = [] { return spaces[below(5)]; };
  const int64_t n = 1 + below(below(2) ? 4 : 60);
  std::string before = random_text(20, "{:\"x"), array = "[", joined;
  for (int64_t i = 0; i < n; ++i) {
    const bool is_integer = below(2) != 0;
    const std::string id = is_integer ? std::to_string((int64_t)generator() >> (5 + below(59)))
                                      : random_text(below(2) ? 30 : 9, "abcdefgh /[]{},:-019~\x7f");
    array += (i == 0 ? "" : ",") + std::string(space()) + (is_integer ? id : "\"" + id + "\"") + space();
    joined += (i == 0 ? "" : std::string(1, '\0')) + id;
  }
  array += "]";
  std::string json = before + array + random_text(12, "]},\"");
  int64_t num_joined = 0, num_ids = 0;
  std::unique_ptr<char[]> written;
  const auto read = [&] {
    const Exact exact(json);
    const int64_t start = (int64_t)(before.size() < json.size() ? before.size() : json.size());
    written.reset(new char[json.size() - start]);
    return rt_join_ids(exact.bytes.get(), (int64_t)json.size(), start, written.get(), &num_joined, &num_ids);
  };
  if (read() != (int64_t)(before.size() + array.size()) || num_ids != n) return false;
  if (std::string(written.get(), num_joined) != joined) return false;
  // Wherever it stands, and whether or not the compiler's char has a sign.
  json = before + array;
  json[before.size() + below((int64_t)array.size())] = (char)(0x80 + below(0x80));
  if (read() != -1) return false;
  for (int64_t i = below(4); i > 0 && !json.empty(); --i) {
    if (below(2)) json[below((int64_t)json.size())] = (char)generator();
    if (below(2)) json.resize(below((int64_t)json.size() + 1));
  }
  read();
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  generator.seed(strtoull(argv[1], nullptr, 10));
  const long count = atol(argv[2]);
  for (long i = 0; i < count; ++i) {
    if (is_held() && is_read()) continue;
    fprintf(stderr, "request %ld: wrong\n", i);
    return 1;
  }
  printf("ids: %ld held\n", count);
  return 0;
}
