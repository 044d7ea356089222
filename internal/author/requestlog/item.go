package requestlog

import (
	"bytes"
	"cmp"
	"context"
	stdjson "encoding/json" // because it keeps numbers as they are written
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
)

// Kind says what an item is.
type Kind int

// The kinds.
const (
	// Other is a line of another log, a row of an export or an object that holds no request.
	Other Kind = iota
	// Request is an AllocationRequest by the names of its members.
	Request
	Exchange
	Record
	// Call is the first call of a webhook for a registration, and OtherCall any other entry of the journal of usher
	// dps.
	Call
	OtherCall
)

// Item is what stands at one place of a log.
type Item struct {
	Kind Kind
	// Text is the JSON text of the item, or the line if there is none in it.
	Text []byte
	// Body is the AllocationRequest; nil if the item has none. An Other and a Request have Text there, unchecked.
	Body []byte
	// Then is what was answered to it, as far as the log says: result, hub, rules and more. It is nil if the log does
	// not say.
	Then *answer.Answer
	// Record is set if the item is a decision record that can be read.
	Record *decisionlog.Record
	// Masked are JSON pointers to what Body lacks or has in another form. The empty pointer stands for places that a
	// record counts and does not name.
	Masked []string
	// Lookups are what the answer depended on besides the request and the rules.
	Lookups []answer.Lookup
	// Err says why the item, or what was answered then, cannot be used.
	Err error

	log    string
	number int
	form   form
}

// Place names the item: file:line, or the file and the row in an array or a table.
func (i *Item) Place() string {
	if i.form == rows {
		return fmt.Sprintf("%s: row %d", i.log, i.number)
	}
	return fmt.Sprintf("%s:%d", i.log, i.number)
}

// InExport reports whether the item is in an array, a table or a CSV file, where a row without a request is no mistake.
func (i *Item) InExport() bool { return i.form == rows || i.form == fields }

// Unanswered reports whether no device got the answer: it is one of shadow rules, or to a probe.
func (i *Item) Unanswered() bool {
	return i.Record != nil && (i.Record.Source == answer.SourceShadow || i.Record.Probe)
}

// Time is when the webhook was called; zero if the log does not say.
func (i *Item) Time() time.Time {
	if i.Record != nil {
		return i.Record.Time
	}
	var o struct {
		Time time.Time `json:"time"`
	}
	if i.Kind != Exchange && i.Kind != Call || json.Unmarshal(i.Text, &o) != nil {
		return time.Time{}
	}
	return o.Time
}

// Device tells one device, whose request was parsed, from all others. If the record does not say which one registered,
// it is a device of its own.
func (i *Item) Device(request *dps.AllocationRequest) string {
	name := request.Device.RegistrationID
	if name == decisionlog.MaskedID {
		name = i.Place()
		if i.Record != nil && i.Record.DecisionID != "" {
			name = i.Record.DecisionID
		}
	}
	return strings.ToLower(request.Service + "/" + name)
}

// Parse reads the body. The error says what is wrong with the line, and how to write it if there is a usual way.
// Without a body it is Err.
func (i *Item) Parse() (*dps.AllocationRequest, error) {
	if i.Body == nil {
		return nil, i.Err
	}
	request, err := dps.ParseAllocationRequest(i.Body)
	if err == nil {
		return request, nil
	}
	if i.form == document {
		return nil, errors.New(strings.ReplaceAll(err.Error(), "the body", "the document"))
	}
	hint := ""
	switch {
	case bytes.HasPrefix(i.Body, []byte{'['}):
		hint = ": write one object to a line, as `jq -c '.[]'` does"
	case bytes.Count(i.Body, []byte{'{'}) > bytes.Count(i.Body, []byte{'}'}):
		hint = ": write one object to a line, as `jq -c .` does"
	}
	return nil, errors.New(strings.ReplaceAll(err.Error(), "the body", "the line") + hint)
}

// Items reads logs, one after the other. An error says which log cannot be read on, and where; it ends the sequence.
// The bodies of items without Err are valid JSON.
func Items(ctx context.Context, logs ...Log) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		for _, log := range logs {
			if !log.items(ctx, yield) {
				return
			}
		}
	}
}

func (l Log) items(ctx context.Context, yield func(Item, error) bool) bool {
	reader, err := l.Reader(ctx, nil)
	if err != nil {
		return yield(Item{}, fmt.Errorf("%s: %w", l.Name, err))
	}
	defer reader.Close()
	var block Block
	for {
		switch err := reader.Next(&block); {
		case err == io.EOF:
			return true
		case err != nil:
			yield(Item{}, fmt.Errorf("%s: %w", block.Place(), err))
			return false
		}
		for item := range block.Items() {
			if item.Err == nil && item.Body != nil && !jsontext.Value(item.Body).IsValid(jsontext.AllowDuplicateNames(true)) {
				_, item.Err = item.Parse()
				item.Body = nil
			}
			if !yield(item, nil) {
				return false
			}
		}
	}
}

// Place names the start of the block.
func (b *Block) Place() string {
	item := b.item(b.first)
	return item.Place()
}

func (b *Block) item(number int) Item { return Item{log: b.log, number: number, form: b.form} }

// Items are the items in the block. They are valid until the block is read again.
func (b *Block) Items() iter.Seq[Item] {
	return func(yield func(Item) bool) {
		switch b.form {
		case oversized:
			yield(b.tooLong(b.first))
			return
		case document:
			b.texts(bytes.TrimSpace(b.data), b.first, yield)
			return
		}
		number := b.first
		for data := b.data; len(data) > 0; number++ {
			var line []byte
			line, data, _ = bytes.Cut(data, []byte{'\n'})
			switch trimmed := bytes.TrimSpace(line); {
			case len(line) > maxEntry:
				if !yield(b.tooLong(number)) {
					return
				}
			case len(trimmed) > 0 && !b.texts(trimmed, number, yield):
				return
			}
		}
	}
}

func (b *Block) tooLong(number int) Item {
	item := b.item(number)
	item.Err = fmt.Errorf("the line is %w", errTooLong)
	return item
}

// texts yields what stands on a line or in a document: one text, unless another object follows it.
func (b *Block) texts(text []byte, number int, yield func(Item) bool) bool {
	for {
		one, rest := text, []byte(nil)
		if text[0] == '{' && (bytes.Contains(text, []byte("}{")) || bytes.Contains(text, []byte("} {"))) {
			decoder := jsontext.NewDecoder(bytes.NewBuffer(text), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
			if _, err := decoder.ReadValue(); err == nil {
				end := decoder.InputOffset()
				if rest = bytes.TrimSpace(text[end:]); len(rest) > 0 && rest[0] == '{' {
					one = text[:end]
				} else {
					rest = nil
				}
			}
		}
		item := b.item(number)
		item.Text, item.Body = one, one
		switch {
		case startsRequest(one):
			item.Kind = Request
			if !yield(item) {
				return false
			}
		case bytes.HasPrefix(one, recordStart):
			item.readRecord(one)
			if !yield(item) {
				return false
			}
		default:
			for _, item := range findAll(item, one) {
				if !yield(item) {
					return false
				}
			}
		}
		if rest == nil {
			return true
		}
		text = rest
	}
}

// startsRequest reports whether a text starts like an AllocationRequest, as the lines of most logs do.
func startsRequest(text []byte) bool {
	text, isObject := bytes.CutPrefix(text, []byte{'{'})
	text, isName := bytes.CutPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte{'"'})
	name, _, _ := bytes.Cut(text, []byte{'"'})
	switch string(name) {
	case "enrollmentGroup", "individualEnrollment", "deviceRuntimeContext", "linkedHubs":
		return isObject && isName
	}
	return false
}

// recordStart is how decision records start.
var recordStart = []byte(`{"usherRecord"`)

// maxDepth is how many values deep a request is looked for. A record can be the text of a field of an object that is
// itself text in a row of an export; in the logs of OpenTelemetry it is ten values deep.
const maxDepth = 12

// finder finds items in a text.
type finder struct {
	place Item // without what stands there
	found []Item
}

// findAll returns the items in a text: all in arrays, but one for each object, since exports repeat what an object
// holds. If there are none, it returns the text as one item. The text is its body, so that the parser says what is
// wrong with it, unless it is a row of an export.
func findAll(place Item, text []byte) []Item {
	f := finder{place: place}
	if place.form == fields {
		for field := range jsonFields(text) {
			if f.find(field, maxDepth) {
				break
			}
		}
	} else {
		f.find(text, maxDepth)
	}
	if len(f.found) == 0 {
		switch {
		case place.InExport():
			place.Body = nil
		case isNullExchange(text):
			place.Body, place.Err = nil, errors.New("its request is null: an exchange has the AllocationRequest as its member request")
		}
		return []Item{place}
	}
	return f.found
}

// isNullExchange reports whether a text is an object with a request that is null.
func isNullExchange(text []byte) bool {
	var o object
	return json.Unmarshal(text, &o) == nil && o.Request.Kind() == 'n'
}

// jsonFields are the fields of a line of a CSV file that start with a JSON object, or the objects in them.
func jsonFields(line []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for {
			start := bytes.Index(line, []byte(`{""`))
			if start < 0 {
				return
			}
			var field []byte
			for line = line[start:]; ; {
				text, rest, _ := bytes.Cut(line, []byte{'"'})
				field, line = append(field, text...), rest
				if !bytes.HasPrefix(rest, []byte{'"'}) {
					break
				}
				field, line = append(field, '"'), rest[1:]
			}
			if !yield(field) {
				return
			}
		}
	}
}

// find looks for records, requests, exchanges and entries of a journal in a text. It reports whether there is one.
func (f *finder) find(text []byte, depth int) bool {
	text = bytes.TrimSpace(text)
	if len(text) == 0 || depth == 0 {
		return false
	}
	isRecord := bytes.Contains(text, []byte("usherRecord"))
	mayHold := isRecord || bytes.Contains(text, []byte("deviceRuntimeContext"))
	switch text[0] {
	case '{':
		item := f.place
		var o object
		err := json.Unmarshal(text, &o)
		switch {
		case err == nil && item.readObject(text, &o), err != nil && isRecord && item.readRecord(text):
			f.found = append(f.found, item)
			return true
		case err != nil || !mayHold:
			return false
		}
		names := slices.Sorted(maps.Keys(o.Others))
		return f.find(o.Request, depth-1) || slices.ContainsFunc(names, func(name string) bool { return f.find(o.Others[name], depth-1) })
	case '[':
		var elements []jsontext.Value
		if json.Unmarshal(text, &elements) != nil || !mayHold {
			break
		}
		for _, element := range elements {
			if f.find(element, depth-1) && f.place.form == rows && depth == maxDepth {
				break
			}
		}
		return len(f.found) > 0
	case '"':
		if unquoted, err := jsontext.AppendUnquote(nil, text); err == nil {
			return f.find(unquoted, depth-1)
		}
	}
	start := bytes.Index(text, recordStart)
	if start < 0 && bytes.Contains(text, []byte("deviceRuntimeContext")) {
		start = bytes.IndexByte(text, '{')
	}
	return start > 0 && f.find(text[start:], depth-1)
}

// object has the members that tell what a JSON object is.
type object struct {
	Record   jsontext.Value `json:"usherRecord"`
	Request  jsontext.Value `json:"request"`
	Decision jsontext.Value `json:"decision"`
	Lookups  jsontext.Value `json:"lookups"`
	entry
	EnrollmentGroup      jsontext.Value            `json:"enrollmentGroup"`
	IndividualEnrollment jsontext.Value            `json:"individualEnrollment"`
	Device               jsontext.Value            `json:"deviceRuntimeContext"`
	LinkedHubs           jsontext.Value            `json:"linkedHubs"`
	Others               map[string]jsontext.Value `json:",embed"`
}

// readObject reads an object if its members say what it is.
func (i *Item) readObject(text []byte, o *object) bool {
	switch {
	case o.Record != nil:
		return i.readRecord(text)
	case i.readEntry(o):
		i.Text = text
	case o.EnrollmentGroup != nil || o.IndividualEnrollment != nil || o.Device != nil || o.LinkedHubs != nil:
		i.Kind, i.Text, i.Body = Request, text, text
	case o.Request.Kind() == '{':
		i.Kind, i.Text, i.Body = Exchange, text, o.Request
		if i.Lookups, i.Err = readLookups(o.Lookups); i.Err != nil {
			i.Body = nil // the decision would be another one
			return true
		}
		i.Then, i.Err = readDecision(o.Decision)
	default:
		return false
	}
	return true
}

// readRecord reads a decision record. It returns true: a text that is not a valid record is an item as well.
func (i *Item) readRecord(text []byte) bool {
	i.Kind, i.Text, i.Body = Record, text, nil
	record, err := decisionlog.Decode(text)
	if err != nil {
		i.Err = err
		return true
	}
	then := record.Answer()
	replay, err := record.Replay()
	i.Record, i.Then, i.Masked = &record, &then, replay.Masked
	if record.Request == nil {
		i.Err = errors.New("the record has no request: the body could not be read")
		return true
	}
	if i.Err = err; err == nil {
		i.Body, i.Lookups = replay.Request, replay.Lookups
	}
	i.Err = cmp.Or(i.Err, checkKnown(then))
	return true
}

// readLookups reads what rules find when they look up for the request of an exchange, as usher verify saves it: a list of
// {"lookup": ..., "key": ..., "row": ...}, without row if there is none, or with "fails": true if the source fails.
func readLookups(text jsontext.Value) ([]answer.Lookup, error) {
	if len(text) == 0 || text.Kind() == 'n' {
		return nil, nil
	}
	var list []struct {
		Lookup string         `json:"lookup"`
		Key    string         `json:"key"`
		Row    map[string]any `json:"row"`
		Fails  bool           `json:"fails"`
	}
	decoder := stdjson.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&list); err != nil {
		return nil, errors.New(`lookups are not a list of objects such as {"lookup": "device", "key": "press-1", "row": {}}`)
	}
	var lookups []answer.Lookup
	for _, l := range list {
		one := answer.Lookup{Builtin: ruleset.LookupBuiltin(l.Lookup), Arguments: []any{l.Key}, Undefined: l.Row == nil && !l.Fails}
		switch {
		case l.Fails:
			one.Fault = "the source fails"
		case l.Row != nil:
			one.Result = l.Row
		}
		lookups = append(lookups, one)
	}
	return lookups, nil
}

// readDecision reads what an exchange says was decided: {"outcome": ..., "hub": ...}, or {"fault": ...} with the kind
// of the fault or an object that has it. Without a decision it returns nil.
func readDecision(text jsontext.Value) (*answer.Answer, error) {
	if len(text) == 0 || text.Kind() == 'n' {
		return nil, nil
	}
	var decision struct {
		Outcome string `json:"outcome"`
		Hub     string `json:"hub"`
		Rules   any    `json:"rules"`
		Fault   any    `json:"fault"`
	}
	if err := json.Unmarshal(text, &decision); err != nil {
		return nil, errors.New(`the record's decision is not an object such as {"outcome": "assigned", "hub": "..."}`)
	}
	if fault, ok := decision.Fault.(map[string]any); ok {
		decision.Fault = fault["kind"]
	}
	fault, _ := decision.Fault.(string)
	then := answer.Answer{Result: answer.Result(cmp.Or(decision.Outcome, fault))}
	then.Rules, _ = decision.Rules.(string)
	if then.Result == answer.Assigned {
		then.Response.IotHubHostName = decision.Hub
	}
	if err := checkKnown(then); err != nil {
		return nil, err
	}
	return &then, nil
}

func checkKnown(then answer.Answer) error {
	switch {
	case !slices.Contains(answer.Results(), then.Result):
		return errors.New("the record's decision has no outcome that is known: it is assigned, rejected or held, or the kind of a fault")
	case then.Result == answer.Assigned && then.Response.IotHubHostName == "":
		return errors.New("the record's decision is assigned, and names no hub")
	}
	return nil
}
