package verify

import (
	"context"

	"github.com/usher-dps/usher/answer"
)

// Generated is a request that was made for a rule.
type Generated struct {
	// Rule is the package of the rule that serves it.
	Rule string
	Body []byte
}

// In a fleet most devices get a hub, in a search for mistakes most do not: of so many
// requests one is taken that gets none, and so many are looked at for one that is taken.
const (
	oneWithoutHub = 4
	lookedAt      = 16
)

// Generate makes requests of the space that [Run] searches: for each rule, up to
// options.Budget different ones, of which three in four get a hub if the rule gives
// one to so many. The same rules and options give the same requests. Its errors are
// those of Run; when ctx ends, it is the error.
func Generate(ctx context.Context, options Options) ([]Generated, error) {
	if options.Budget <= 0 {
		options.Budget = DefaultBudget
	}
	wanted := options.Budget
	options.Budget *= lookedAt
	searches, err := newSearches(ctx, options)
	if err != nil {
		return nil, err
	}
	var requests []Generated
	for done, s := range searches {
		if ctx.Err() != nil {
			break
		}
		if s.explore(ctx, options); s.plan != nil { // else nothing reaches the rule
			for _, body := range s.generate(ctx, wanted) {
				requests = append(requests, Generated{s.checker.rule.Package, body})
			}
		}
		if options.Progress != nil {
			options.Progress(done+1, len(searches))
		}
	}
	return requests, ctx.Err()
}

// generate takes requests from the plan, those first that get a hub.
func (s *search) generate(ctx context.Context, wanted int) [][]byte {
	var with, without [][]byte
	seen := map[string]bool{}
	for number := range s.plan.size() {
		if ctx.Err() != nil || len(with) >= wanted-wanted/oneWithoutHub && len(without) >= wanted/oneWithoutHub {
			break
		}
		body := s.plan.space.draft(s.plan.choice(number)).body()
		if seen[string(body)] {
			continue
		}
		seen[string(body)] = true
		switch a := s.checker.decide(ctx, body); {
		case a.invalid():
		case a.Result == answer.Assigned:
			with = append(with, body)
		default:
			without = append(without, body)
		}
	}
	with = with[:min(len(with), wanted-min(len(without), wanted/oneWithoutHub))]
	return append(with, without[:min(len(without), wanted-len(with))]...)
}
