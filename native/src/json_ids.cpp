// A JSON array of ids to their texts joined by NUL, as rt_find_texts takes them: no object is made of an id.
//
// What nearly every request holds is read here, strings of ASCII without escapes and integers of up to 18 digits. All else
// is left to a JSON parser, right or wrong: what is wrong gets that parser's error, and its grammar is decided once.
#include "id_readers.h"
#include "ranktower_native.h"

namespace ranktower {
namespace {

constexpr int64_t kNotRead = -1;
constexpr int kSafeDigits = 18;  // whatever they are, they fit int64

// A bit set in the top of the first byte that ends a run of plain characters: a quote, a backslash, a control character, or
// one that is not ASCII. Bytes behind the first may be marked wrongly.
inline uint64_t not_plain(uint64_t word) {
  const uint64_t quote = word ^ '"' * kEveryByte, backslash = word ^ '\\' * kEveryByte;
  const uint64_t ends = ((quote - kEveryByte) & ~quote) | ((backslash - kEveryByte) & ~backslash);
  return (ends | (word - ' ' * kEveryByte) | word) & kTopBits;
}

inline bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Array {
 public:
  Array(const char* json, int64_t num_bytes, char* joined)
      : at_(json), start_(json), end_(json + num_bytes), out_(joined) {}

  // Offset behind the array, or kNotRead.
  int64_t read(int64_t* num_ids) {
    if (!take('[')) return kNotRead;
    for (*num_ids = 1;; ++*num_ids) {
      skip_spaces();
      if (!(peek() == '"' ? read_string() : read_integer())) return kNotRead;
      skip_spaces();
      if (take(']')) return at_ - start_;
      if (!take(',')) return kNotRead;
      *out_++ = '\0';
    }
  }

  const char* end_of_joined() const { return out_; }

 private:
  // NUL at the end, which has no place in JSON.
  char peek() const { return at_ < end_ ? *at_ : '\0'; }

  bool take(char wanted) {
    if (peek() != wanted) return false;
    ++at_;
    return true;
  }

  void skip_spaces() {
    while (peek() == ' ' || peek() == '\n' || peek() == '\t' || peek() == '\r') ++at_;
  }

  bool read_string() {
    ++at_;
    // What is written is shorter than what was read, so a whole word has room wherever one could be read.
    for (; end_ - at_ >= kWordBytes; at_ += kWordBytes, out_ += kWordBytes) {
      const uint64_t word = word_at(at_), ends = not_plain(word);
      memcpy(out_, &word, sizeof word);
      if (ends == 0) continue;
      const int length = __builtin_ctzll(ends) / 8;
      at_ += length;
      out_ += length;
      return take('"');
    }
    // The last few bytes of the text. NUL, which is what stands behind them, ends a run as well.
    while ((not_plain((unsigned char)peek()) & 0x80) == 0) *out_++ = *at_++;
    return take('"');
  }

  // No "-0", which is no id's text, and no float.
  bool read_integer() {
    if (peek() == '-') *out_++ = *at_++;
    const char* const first = at_;
    while (is_digit(peek())) *out_++ = *at_++;
    const int64_t count = at_ - first;
    if (count < 1 || count > kSafeDigits) return false;
    return *first != '0' || (count == 1 && first[-1] != '-');
  }

  const char *at_, *start_, *end_;
  char* out_;
};

}  // namespace
}  // namespace ranktower

int64_t rt_join_ids(const char* json, int64_t num_bytes, int64_t start, char* joined, int64_t* num_joined,
                    int64_t* num_ids) {
  ranktower::Array array(json + start, num_bytes - start, joined);
  const int64_t num_read = array.read(num_ids);
  *num_joined = array.end_of_joined() - joined;
  return num_read < 0 ? num_read : start + num_read;
}
