// What a request holds, one id after another, as keys of a table: words of 8 bytes.
//
// A reader has is_over(), and next(words), which writes the key of the next id, and is false for one that no key can be;
// what stands in the words then means nothing. No reader reads outside of what it was given.
#ifndef RANKTOWER_NATIVE_ID_READERS_H
#define RANKTOWER_NATIVE_ID_READERS_H

#include <stdint.h>
#include <string.h>

namespace ranktower {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the files are, and are read as they are");

constexpr int kWordBytes = 8;
constexpr int kMaxDigits = 19;  // of an int64
constexpr uint64_t kEveryByte = 0x0101010101010101;
constexpr uint64_t kTopBits = kEveryByte << 7;

inline uint64_t word_at(const char* at) {
  uint64_t word;
  memcpy(&word, at, sizeof word);
  return word;
}

// The first `count` bytes of a word, below 8; NUL behind.
inline uint64_t first_bytes(uint64_t word, int count) { return word & ((UINT64_C(1) << 8 * count) - 1); }

// UTF-8 of ids joined by NUL.
class Texts {
 public:
  Texts(const char* joined, int64_t num_bytes) : joined_(joined), num_bytes_(num_bytes) {}

  bool is_over() const { return at_ > num_bytes_; }
  int64_t offset() const { return at_; }

  // The word at an offset up to num_bytes, with NUL for what lies behind the end.
  uint64_t word(int64_t offset) const {
    const int64_t left = num_bytes_ - offset;
    if (left >= kWordBytes) return word_at(joined_ + offset);
    uint64_t rest = 0;
    if (left > 0) memcpy(&rest, joined_ + offset, left);
    return rest;
  }

  // The next id, filled up with NUL to num_words. Returns its length, or -1 if it is longer.
  int64_t next(uint64_t* words, int num_words) {
    for (int i = 0; i < num_words; ++i) {
      const uint64_t found = word(at_);
      const int length = length_before_nul(found);
      if (length < kWordBytes) {
        words[i] = first_bytes(found, length);
        for (int rest = i + 1; rest < num_words; ++rest) words[rest] = 0;
        at_ += length + 1;
        return (int64_t)i * kWordBytes + length;
      }
      words[i] = found;
      at_ += kWordBytes;
    }
    return skip() == 0 ? (int64_t)num_words * kWordBytes : -1;
  }

  // Goes behind the next NUL; returns how many bytes were before it.
  int64_t skip() {
    const int64_t start = at_;
    int length = kWordBytes;
    for (; length == kWordBytes; at_ += length) length = length_before_nul(word(at_));
    return at_++ - start;
  }

 private:
  static int length_before_nul(uint64_t word) {
    const uint64_t nul = (word - kEveryByte) & ~word & kTopBits;  // the lowest bit set is that of the first NUL
    return nul == 0 ? kWordBytes : __builtin_ctzll(nul) / 8;
  }

  const char* joined_;
  int64_t num_bytes_;
  int64_t at_ = 0;  // behind the end by one once the last id is read: each id has a NUL, the last one's is not there
};

// Eight digits to their value; false if one is none.
inline bool read_digits(uint64_t text, uint64_t* value) {
  const uint64_t digits = text - '0' * kEveryByte;
  // Below '0' the subtraction borrows, above '9' the addition reaches the top bit.
  if ((((text + 0x46 * kEveryByte) | digits) & kTopBits) != 0) return false;
  const uint64_t pairs = digits * 10 + (digits >> 8), low = 0x000000FF000000FF;
  const uint64_t upper = (pairs & low) * (100 + (UINT64_C(1000000) << 32));
  const uint64_t lower = (pairs >> 16 & low) * (1 + (UINT64_C(10000) << 32));
  *value = (upper + lower) >> 32;
  return true;
}

// A number and its sign as int64; false if it does not fit.
inline bool to_integer(uint64_t magnitude, bool is_negative, uint64_t* value) {
  *value = is_negative ? 0 - magnitude : magnitude;
  return magnitude <= (uint64_t)INT64_MAX + is_negative;
}

// An int64 as text, filled up with NUL; false if it is longer than the words.
inline bool write_integer(int64_t value, uint64_t* words, int num_words) {
  char text[kMaxDigits + 1];
  char* start = text + sizeof text;
  uint64_t left = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
  do {
    *--start = (char)('0' + left % 10);
    left /= 10;
  } while (left != 0);
  if (value < 0) *--start = '-';
  const int64_t length = text + sizeof text - start;
  for (int i = 0; i < num_words; ++i) words[i] = 0;
  if (length > (int64_t)num_words * kWordBytes) return false;
  memcpy(words, start, length);
  return true;
}

struct TextsAsKeys {
  Texts texts;
  int num_words;

  bool is_over() const { return texts.is_over(); }
  bool next(uint64_t* words) { return texts.next(words, num_words) > 0; }
};

// Keys are int64. An id is one in the form that Python prints it: no plus, no zeros in front, no "-0".
struct TextsAsIntegers {
  Texts texts;

  bool is_over() const { return texts.is_over(); }

  bool next(uint64_t* words) {
    int64_t offset = texts.offset();
    const int64_t length = texts.skip();
    const uint64_t beginning = texts.word(offset);
    const bool is_negative = (char)beginning == '-';
    offset += is_negative;
    const int64_t count = length - is_negative;
    words[0] = 0;
    if (count < 1 || count > kMaxDigits) return false;
    uint64_t text = texts.word(offset), total = 0;
    if ((char)text == '0' && length > 1) return false;
    if (const int first = (int)(count % kWordBytes); first != 0) {
      const uint64_t zeros = ('0' * kEveryByte) >> 8 * first;
      if (!read_digits(text << (64 - 8 * first) | zeros, &total)) return false;
      offset += first;
    }
    for (int64_t left = count / kWordBytes; left > 0; --left, offset += kWordBytes) {
      if (!read_digits(texts.word(offset), &text)) return false;
      total = total * 100000000 + text;  // nineteen digits fit
    }
    return to_integer(total, is_negative, words);
  }
};

// A list of integers as version 2 of Python's marshal writes it: "[", how many as 32 bits, and for each "i" and 32 bits, or
// "l", the number of its digits as 32 bits, with its sign, and its digits of 15 bits in 16, the lowest first.
class Marshalled {
 public:
  Marshalled(const char* list, int64_t num_bytes, int64_t n) : at_(list + kHead), end_(list + num_bytes) {
    is_wrong_ = num_bytes < kHead || list[0] != '[' || read_32(list + 1) != n;
  }

  bool is_over() const { return !is_wrong_ && at_ == end_; }

  // False, and never over, once something else than an int64 has come.
  bool next(uint64_t* value) {
    *value = 0;
    if (is_wrong_ || end_ - at_ < kHead) return refuse();
    const char type = at_[0];
    const int32_t number = read_32(at_ + 1);
    at_ += kHead;
    if (type == 'i') {
      *value = (uint64_t)(int64_t)number;
      return true;
    }
    const int64_t count = number < 0 ? -(int64_t)number : number;
    if (type != 'l' || count > kMaxCount || end_ - at_ < 2 * count) return refuse();
    uint64_t magnitude = 0;
    for (int64_t i = 0; i < count; ++i, at_ += 2) {
      const uint64_t digit = read_16(at_);
      if (digit << kDigitBits * i >> kDigitBits * i != digit) return refuse();
      magnitude |= digit << kDigitBits * i;
    }
    return to_integer(magnitude, number < 0, value) || refuse();
  }

 private:
  static constexpr int64_t kHead = 5, kMaxCount = 5;
  static constexpr int kDigitBits = 15;

  static int32_t read_32(const char* at) {
    int32_t value;
    memcpy(&value, at, sizeof value);
    return value;
  }

  static uint16_t read_16(const char* at) {
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
  }

  bool refuse() {
    is_wrong_ = true;
    return false;
  }

  const char *at_, *end_;
  bool is_wrong_;
};

struct Integers {
  const int64_t *values, *end;

  bool is_over() const { return values == end; }
  bool next(uint64_t* words) {
    words[0] = (uint64_t)*values++;
    return true;
  }
};

// Integers where keys are texts.
template <class Reader>
struct AsTexts {
  Reader integers;
  int num_words;

  bool is_over() const { return integers.is_over(); }
  bool next(uint64_t* words) {
    uint64_t value;
    const bool is_integer = integers.next(&value);
    return write_integer((int64_t)value, words, num_words) && is_integer;
  }
};

}  // namespace ranktower
#endif
