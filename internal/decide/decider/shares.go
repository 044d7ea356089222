package decider

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/rendezvous"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Share is a percentage of the devices of some enrollments.
type Share struct {
	// Pattern is the name of an enrollment, in lower case, or a glob as rules use them.
	Pattern string
	// Percent is from 0 to 100.
	Percent float64
}

// Shares are percentages by enrollment. The enrollment's own name takes precedence over globs, a longer glob over a
// shorter one. Enrollments without a match have 0.
type Shares []Share

// ParseShares reads a list such as "toasters=10, line-*=2.5, *=0". A single number applies to all enrollments.
func ParseShares(text string) (Shares, error) {
	var shares Shares
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		pattern, number, named := strings.Cut(part, "=")
		if !named {
			pattern, number = "*", part
		}
		pattern = strings.ToLower(strings.TrimSpace(pattern))
		percent, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(number), "%"), 64)
		switch {
		case pattern == "":
			return nil, fmt.Errorf("%q names no enrollment: write NAME=PERCENT, or only a percentage for all", part)
		case err != nil || !(percent >= 0 && percent <= 100):
			return nil, fmt.Errorf("%q has no percentage from 0 to 100: write NAME=PERCENT, such as toasters=10", part)
		case slices.ContainsFunc(shares, func(s Share) bool { return s.Pattern == pattern }):
			return nil, fmt.Errorf("%q has two percentages", pattern)
		}
		shares = append(shares, Share{pattern, percent})
	}
	return shares, nil
}

// Of returns the percentage for an enrollment.
func (s Shares) Of(enrollment string) float64 {
	best := Share{}
	name := strings.ToLower(enrollment)
	for _, share := range s {
		if share.Pattern == name {
			return share.Percent
		}
		if len(share.Pattern) > len(best.Pattern) && ruleset.MatchGlob(share.Pattern, name) {
			best = share
		}
	}
	return best.Percent
}

// Holds reports whether a device is in the share of its enrollment. That depends only on the names, without case: a
// device is on the same side each time and on every instance. A device in a share is also in every larger one.
func (s Shares) Holds(enrollment dps.Enrollment, registrationID string) bool {
	if len(s) == 0 {
		return false
	}
	percent := s.Of(enrollment.ID)
	if percent <= 0 || percent >= 100 {
		return percent > 0
	}
	// The key starts with a word of its own, so that the canary is independent of percentages that a rule draws.
	key := "canary\n" + enrollment.ID + "\n" + registrationID
	const partsPerPercent = 10_000 // Fraction counts parts per million
	return float64(rendezvous.Fraction(key)) < percent*partsPerPercent
}
