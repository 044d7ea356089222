package schema

import (
	"encoding/json"
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

const (
	// maxNumberLength bounds the text of a number whose value is looked at, in bytes. An exact float64 in plain
	// notation can be longer, but no field of the documents that are checked holds one.
	maxNumberLength = 100
	// maxExponent bounds its exponent; float64 ends at 308. A fraction with 1,000 digits is made in a few microseconds.
	maxExponent = 999
)

// unjudgeableLeaf says why a value that is neither string, bool, nil, object nor array cannot be checked, "" when it
// can.
func unjudgeableLeaf(value any) string {
	number, ok := value.(json.Number)
	if !ok {
		return fmt.Sprintf("not a JSON value: Go type %T", value)
	}
	if !judgeable(number) {
		return fmt.Sprintf("number is out of bounds: want at most %d characters and an exponent within ±%d", maxNumberLength, maxExponent)
	}
	return ""
}

// judgeable reports whether the number is a JSON number whose value can be computed at little cost.
func judgeable(number json.Number) bool {
	text := string(number)
	if len(text) > maxNumberLength {
		return false
	}
	// The grammar of RFC 8259, section 6. The library takes a fault in it for granted and panics.
	rest := strings.TrimPrefix(text, "-")
	whole, rest := digits(rest)
	if whole == "" || (len(whole) > 1 && whole[0] == '0') {
		return false
	}
	if strings.HasPrefix(rest, ".") {
		var fraction string
		if fraction, rest = digits(rest[1:]); fraction == "" {
			return false
		}
	}
	if rest == "" {
		return true
	}
	if rest[0] != 'e' && rest[0] != 'E' {
		return false
	}
	rest = rest[1:]
	if rest != "" && (rest[0] == '+' || rest[0] == '-') {
		rest = rest[1:]
	}
	exponent, rest := digits(rest)
	if exponent == "" || rest != "" {
		return false
	}
	size, err := strconv.Atoi(exponent)
	return err == nil && size <= maxExponent
}

// digits splits text after its leading decimal digits.
func digits(text string) (leading, rest string) {
	i := 0
	for i < len(text) && '0' <= text[i] && text[i] <= '9' {
		i++
	}
	return text[:i], text[i:]
}

// plainInteger reports whether the number is an integer by its looks: digits alone, few enough to be judged.
func plainInteger(number json.Number) bool {
	text := strings.TrimPrefix(string(number), "-")
	whole, rest := digits(text)
	return rest == "" && whole != "" && (len(whole) == 1 || whole[0] != '0') && len(number) <= maxNumberLength
}

// rational returns the value of a judgeable number.
func rational(number json.Number) *big.Rat {
	value, _ := new(big.Rat).SetString(string(number))
	return value
}
