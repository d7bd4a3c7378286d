// Ids of a request to row numbers, over a table's mapped files; docs/formats.md specifies the hash and the slots.
//
// A large table lies in memory, not in caches: each id reads a slot, a key and a row's tag, and every read waits 100 ns
// and needs the one before it. So ids go in batches, and all ids of a batch take a step before one takes the next: the
// reads of a step are asked for in advance and wait for memory together.
//
// The answers are those of ranktower/embedding_store/slots.py, also where the slots are damaged: they only propose.
#include "id_readers.h"
#include "ranktower_native.h"

namespace ranktower {
namespace {

constexpr int kBatch = 64;
constexpr int kWindow = 4;  // slots looked at for each id
constexpr int kFew = 8;     // so few ids are searched for whatever the slots say
constexpr int kSlotsPerRow = 4;
constexpr int64_t kWrongCount = -1, kImpossible = -2;
constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15;

inline uint64_t fold(uint64_t word) { return word ^ word >> 32; }

// kWords: of a key; 0 where only the table knows.
template <int kWords>
struct Table {
  const char* keys;
  const char* slots;
  const rt_tagged_rows* tagged;  // may be NULL
  int64_t last_row, last_slot;
  uint64_t num_homes;
  int width;
  bool has_integers;

  Table(const rt_ids& ids, const rt_tagged_rows* rows)
      : keys((const char*)ids.keys), slots((const char*)ids.slots), tagged(rows), last_row(ids.num_keys - 1),
        last_slot(ids.num_slots - 1), num_homes((uint64_t)ids.num_keys * kSlotsPerRow),
        width((int)(ids.key_bytes / kWordBytes)), has_integers(ids.has_integers != 0) {}

  int num_words() const { return kWords != 0 ? kWords : width; }
  const char* key(int64_t row) const { return keys + row * num_words() * kWordBytes; }
  const char* row(int64_t row) const { return (const char*)tagged->rows + row * tagged->row_bytes; }

  // The slot that stands a step behind home; the very last one again where there is none.
  const char* slot(int64_t home, int step) const {
    return slots + (home + step < last_slot ? home + step : last_slot) * kWordBytes;
  }

  // Of the keys, ascending, the first that is not below the wanted one, or the last.
  int64_t search(const uint64_t* wanted) const {
    int64_t low = 0, count = last_row + 1;
    while (count > 0) {
      const int64_t half = count / 2;
      const bool is_below = has_integers ? (int64_t)word_at(key(low + half)) < (int64_t)wanted[0]
                                         : memcmp(key(low + half), wanted, num_words() * kWordBytes) < 0;
      low = is_below ? low + half + 1 : low;
      count = is_below ? count - half - 1 : half;
    }
    return low < last_row ? low : last_row;
  }

  bool is_at(int64_t row, const uint64_t* wanted) const {
    const char* const found = key(row);
    uint64_t differences = 0;
    for (int i = 0; i < num_words(); ++i) differences |= word_at(found + i * kWordBytes) ^ wanted[i];
    return differences == 0;
  }

  bool has_tag(int64_t at) const { return memcmp(row(at), tagged->tag, RT_TAG_BYTES) == 0; }
};

// The ids of a batch, on their way.
template <int kWords>
struct Batch {
  const Table<kWords>& table;
  int count = 0;
  uint64_t words[kBatch * (kWords != 0 ? kWords : RT_MAX_KEY_BYTES / kWordBytes)];
  int64_t homes[kBatch];
  uint64_t marks[kBatch];  // a slot of the right tag, less this, is a row number; any other is more than all of them
  int64_t rows[kBatch];
  bool is_key[kBatch];

  explicit Batch(const Table<kWords>& of) : table(of) {}

  uint64_t* key(int i) { return words + i * table.num_words(); }

  // Takes the next ids, of so many that are left; false if the reader has fewer.
  template <class Reader>
  bool read_ids(Reader* reader, int64_t left) {
    count = left < kBatch ? (int)left : kBatch;
    for (int i = 0; i < count; ++i) {
      if (reader->is_over()) return false;
      is_key[i] = reader->next(key(i));
      hash(i);
    }
    // By itself: a prefetch ends once its page is known, and the processor has as many under way as fit into the few
    // hundred instructions that it looks ahead.
    for (int i = 0; i < count; ++i) {
      __builtin_prefetch(table.slot(homes[i], 0));
      __builtin_prefetch(table.slot(homes[i], kWindow - 1));  // in the next line of the cache, three times in eight
    }
    return true;
  }

  void hash(int i) {
    uint64_t total = 0, power = kMultiplier;
    for (int k = 0; k < table.num_words(); ++k, power *= kMultiplier) total += fold(key(i)[k]) * power;
    const uint64_t hashed = fold(total) * kMultiplier;
    homes[i] = (int64_t)((hashed >> 32) * table.num_homes >> 32);
    marks[i] = (hashed << 32) + 1;
  }

  void read_slots() {
    for (int i = 0; i < count; ++i) {
      uint64_t best = UINT64_MAX;
      for (int step = 0; step < kWindow; ++step) {
        const uint64_t number = word_at(table.slot(homes[i], step)) - marks[i];
        best = number < best ? number : best;
      }
      rows[i] = best < (uint64_t)table.last_row ? (int64_t)best : table.last_row;
      __builtin_prefetch(table.key(rows[i]));
      __builtin_prefetch(table.key(rows[i] + 1) - 1);
      if (table.tagged != nullptr) __builtin_prefetch(table.row(rows[i]));
    }
  }

  // Whether a key not found may still stand behind the window, or behind another key of the same tag.
  bool is_open(int i) const {
    bool has_no_end = true, has_tag = false;
    for (int step = 0; step < kWindow; ++step) {
      const uint64_t slot = word_at(table.slot(homes[i], step));
      has_no_end &= slot != 0;
      has_tag |= slot - marks[i] <= (uint64_t)table.last_row;
    }
    return has_no_end || has_tag;
  }

  // Whether the key is in the table, and then its row.
  bool is_found(int i, bool are_few) {
    if (!is_key[i]) return false;
    if (table.is_at(rows[i], key(i))) return true;
    // The keys are sorted: an id chosen to lie in a long run of slots costs a binary search, not the run.
    if (!are_few && !is_open(i)) return false;
    rows[i] = table.search(key(i));
    return table.is_at(rows[i], key(i));
  }
};

struct Answer {
  int64_t n;
  int64_t* chosen;
  uint8_t* present;
  int64_t* num_rejected;
};

template <int kWords, class Reader>
int64_t find(const Table<kWords>& table, Reader reader, const Answer& answer) {
  Batch<kWords> batch(table);
  int64_t num_found = 0, num_rejected = 0;
  for (int64_t start = 0; start < answer.n; start += kBatch) {
    if (!batch.read_ids(&reader, answer.n - start)) return kWrongCount;
    batch.read_slots();
    for (int i = 0; i < batch.count; ++i) {
      bool is_present = batch.is_found(i, answer.n <= kFew);
      if (is_present && table.tagged != nullptr && !table.has_tag(batch.rows[i])) {
        is_present = false;
        ++num_rejected;
      }
      answer.present[start + i] = is_present;
      answer.chosen[num_found] = batch.rows[i];  // there is room: fewer are found than were looked at
      num_found += is_present;
    }
  }
  *answer.num_rejected = num_rejected;
  return reader.is_over() ? num_found : kWrongCount;
}

bool is_possible(const rt_ids& ids, const rt_tagged_rows* rows) {
  if (ids.num_keys < 0 || ids.num_slots / kSlotsPerRow < ids.num_keys) return false;
  if (ids.num_slots <= ids.num_keys * kSlotsPerRow) return false;
  if (ids.key_bytes < kWordBytes || ids.key_bytes > RT_MAX_KEY_BYTES || ids.key_bytes % kWordBytes != 0) return false;
  if (ids.has_integers && ids.key_bytes != kWordBytes) return false;
  return rows == nullptr || (rows->num_rows == ids.num_keys && rows->row_bytes >= RT_TAG_BYTES);
}

int64_t find_none(const Answer& answer) {
  memset(answer.present, 0, answer.n);
  return *answer.num_rejected = 0;
}

// Of texts, by the width of the keys: short ones are worth loops of a fixed length.
template <class Reader>
int64_t find_among_texts(const rt_ids& ids, const rt_tagged_rows* rows, const Reader& reader, const Answer& answer) {
  switch (ids.key_bytes / kWordBytes) {
    case 1: return find(Table<1>(ids, rows), reader, answer);
    case 2: return find(Table<2>(ids, rows), reader, answer);
    case 3: return find(Table<3>(ids, rows), reader, answer);
    case 4: return find(Table<4>(ids, rows), reader, answer);
    default: return find(Table<0>(ids, rows), reader, answer);
  }
}

template <class Reader>
int64_t find_integers(const rt_ids& ids, const rt_tagged_rows* rows, const Reader& reader, const Answer& answer) {
  if (ids.num_keys == 0) return find_none(answer);
  if (ids.has_integers) return find(Table<1>(ids, rows), reader, answer);
  return find_among_texts(ids, rows, AsTexts<Reader>{reader, (int)(ids.key_bytes / kWordBytes)}, answer);
}

}  // namespace
}  // namespace ranktower

using namespace ranktower;

int64_t rt_find_texts(const rt_ids* ids, const rt_tagged_rows* rows, const char* joined, int64_t num_bytes, int64_t n,
                      int64_t* chosen, uint8_t* present, int64_t* num_rejected) {
  const Answer answer = {n, chosen, present, num_rejected};
  if (!is_possible(*ids, rows)) return kImpossible;
  // Joined, no id and one empty id are the same.
  if (ids->num_keys == 0 || (n == 0 && num_bytes == 0)) return find_none(answer);
  const Texts texts(joined, num_bytes);
  if (ids->has_integers) return find(Table<1>(*ids, rows), TextsAsIntegers{texts}, answer);
  return find_among_texts(*ids, rows, TextsAsKeys{texts, (int)(ids->key_bytes / kWordBytes)}, answer);
}

int64_t rt_find_integers(const rt_ids* ids, const rt_tagged_rows* rows, const int64_t* values, int64_t n,
                         int64_t* chosen, uint8_t* present, int64_t* num_rejected) {
  const Answer answer = {n, chosen, present, num_rejected};
  if (!is_possible(*ids, rows)) return kImpossible;
  return find_integers(*ids, rows, Integers{values, values + n}, answer);
}

int64_t rt_find_marshalled(const rt_ids* ids, const rt_tagged_rows* rows, const char* list, int64_t num_bytes, int64_t n,
                           int64_t* chosen, uint8_t* present, int64_t* num_rejected) {
  const Answer answer = {n, chosen, present, num_rejected};
  if (!is_possible(*ids, rows)) return kImpossible;
  return find_integers(*ids, rows, Marshalled(list, num_bytes, n), answer);
}
