package verify

import (
	"context"

	"github.com/usher-dps/usher/answer"
)

// Generated is a request that was generated for a rule.
type Generated struct {
	// Rule is the package of the rule that serves the request.
	Rule string
	Body []byte
}

// In a fleet most devices get a hub; in a search for mistakes most do not. So Generate returns one request without a
// hub in every oneWithoutHub, and tries up to candidatesPerRequest for each that it returns.
const (
	oneWithoutHub        = 4
	candidatesPerRequest = 16
)

// Generate returns requests from the space that [Run] searches: up to options.Budget different requests for each rule.
// Three in four get a hub, if the rule assigns that many. The same rules and options give the same requests. Its errors
// are those of Run, and that of ctx.
func Generate(ctx context.Context, options Options) ([]Generated, error) {
	options = options.withDefaults()
	wanted := options.Budget
	options.Budget *= candidatesPerRequest
	searches, err := newSearches(ctx, options)
	if err != nil {
		return nil, err
	}
	var requests []Generated
	if err := exploreAll(ctx, searches, options); err != nil {
		return nil, err
	}
	for done, s := range searches {
		if ctx.Err() != nil {
			break
		}
		if s.plan != nil { // otherwise no request reaches the rule
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

// generate returns requests from the plan. Those that get a hub come first.
func (s *search) generate(ctx context.Context, wanted int) [][]byte {
	var with, without [][]byte
	seen := map[string]bool{}
	for number := range s.plan.size() {
		if ctx.Err() != nil || len(with) >= wanted-wanted/oneWithoutHub && len(without) >= wanted/oneWithoutHub {
			break
		}
		d := s.plan.request(number)
		body := d.body()
		if seen[string(body)] {
			continue
		}
		seen[string(body)] = true
		switch a := s.checker.at(d).decide(ctx, body); {
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
