// Package table finds the rows of look-ups in Azure Table Storage, by reading one entity by its keys. No filter is made
// from a key.
package table

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/data/aztables"

	"github.com/usher-dps/usher/internal/serve/lookupsource/fault"
	"github.com/usher-dps/usher/lookup"
)

// role lets an identity read entities.
const role = "Storage Table Data Reader"

const (
	// maxRow bounds an entity in JSON, in bytes. Table Storage has ones of 1 MiB.
	maxRow = 64 << 10
	// maxConnections bounds those to one source, so that a slow one is not asked by ever more of them.
	maxConnections = 64
	idleTimeout    = 90 * time.Second
)

// Options configure a [Source].
type Options struct {
	Location   Location
	Credential azcore.TokenCredential // required
	// Transport reaches the storage; nil means Go's own.
	Transport http.RoundTripper
}

// Source finds rows in a table.
type Source struct {
	location Location
	client   *aztables.Client
}

// New returns a source that has no connection yet.
func New(options Options) (*Source, error) {
	transport := options.Transport
	if transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		own.MaxConnsPerHost, own.MaxIdleConnsPerHost, own.IdleConnTimeout = maxConnections, maxConnections, idleTimeout
		transport = own
	}
	service, err := aztables.NewServiceClient(options.Location.Service, credential{options.Credential}, &aztables.ClientOptions{ClientOptions: policy.ClientOptions{
		Transport: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		Retry:     policy.RetryOptions{MaxRetries: -1}, // the retries of azcore are far longer than a look-up may take
	}})
	if err != nil {
		return nil, fmt.Errorf("a client for Table Storage: %w", err)
	}
	return &Source{options.Location, service.NewClient(options.Location.Table)}, nil
}

// credential makes its errors faults.
type credential struct{ azcore.TokenCredential }

func (c credential) GetToken(ctx context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	token, err := c.TokenCredential.GetToken(ctx, options)
	if err != nil {
		return token, fault.Token("Table Storage", err)
	}
	return token, nil
}

// probe is a key that is looked up to see whether the table can be read.
const probe = "usher-probe"

// Prepare reads from the table, so that the first look-up need not wait for a token, and a missing role or table is
// noticed early.
func (s *Source) Prepare(ctx context.Context) error {
	_, err := s.Find(ctx, probe)
	return err
}

// Find implements [lookup.Source]. A key that Table Storage does not allow has no row.
func (s *Source) Find(ctx context.Context, key string) (lookup.Answer, error) {
	partition, row, ok := s.location.keys(key)
	if !ok {
		return lookup.Answer{}, nil
	}
	response, err := s.client.GetEntity(ctx, partition, row, nil)
	if answered, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return lookup.Answer{}, s.statusFault(answered)
	}
	// azcore wraps no error of encoding/json. A test notices if it uses other words.
	if err != nil && strings.HasPrefix(err.Error(), "unmarshalling ") || len(response.Value) > maxRow {
		return lookup.Answer{}, fault.New(fault.Schema, "its answer is not an entity in JSON of at most %d bytes", maxRow)
	}
	if err != nil {
		return lookup.Answer{}, fault.Transport(err)
	}
	entity, err := read(response.Value)
	if err != nil {
		return lookup.Answer{}, err
	}
	// Servers and proxies differ in what they take % for. A row of other keys is that of another device.
	if entity.partition != partition || entity.row != row {
		return lookup.Answer{}, fault.New(fault.Refused, "it answers with an entity of other keys")
	}
	return lookup.Answer{Row: entity.members, Version: string(response.ETag)}, nil
}

// statusFault is nil if there is no such entity. The error's own text quotes the URL, which contains the key.
func (s *Source) statusFault(answered *azcore.ResponseError) error {
	code := aztables.TableErrorCode(answered.ErrorCode)
	if answered.StatusCode == http.StatusNotFound && (code == aztables.ResourceNotFound || code == aztables.EntityNotFound) {
		return nil
	}
	f := fault.Status(answered.StatusCode)
	if slices.Contains(aztables.PossibleTableErrorCodeValues(), code) || slices.Contains(authorizationCodes, answered.ErrorCode) {
		f.Text += " (" + answered.ErrorCode + ")"
	}
	switch {
	case answered.ErrorCode == networkCode:
		f.Text += ": the account's network rules do not let this app in, or its identity lacks the role " + role
	case f.Kind == fault.Denied:
		f.Text += ": the identity needs the role " + role
	case code == aztables.TableNotFound:
		f.Text += ": there is no table " + s.location.Table
	}
	return f
}

// networkCode is what Storage answers if its firewall refuses a caller, among other reasons. Source:
// https://learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes
const networkCode = "AuthorizationFailure"

// authorizationCodes are codes that aztables does not list.
var authorizationCodes = []string{networkCode, "AuthorizationPermissionMismatch", "AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation", "ServerBusy", "OperationTimedOut"}

type entity struct {
	partition, row string
	members        map[string]any
}

// read takes the members out of an entity in the JSON of the Table service. Source:
// https://learn.microsoft.com/rest/api/storageservices/payload-format-for-table-service-operations
func read(text []byte) (entity, error) {
	e := entity{members: map[string]any{}}
	decoded := map[string]any{}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if decoder.Decode(&decoded) != nil {
		return e, fault.New(fault.Schema, "its answer is not an entity in JSON")
	}
	e.partition, _ = decoded["PartitionKey"].(string)
	e.row, _ = decoded["RowKey"].(string)
	for name, value := range decoded {
		if name == "PartitionKey" || name == "RowKey" || name == "Timestamp" || strings.HasPrefix(name, "odata.") || strings.Contains(name, "@odata.") {
			continue
		}
		// The only type whose JSON is of another kind: JavaScript's numbers have 53 bits. A date, a GUID and binary in
		// Base64 are texts.
		if number, ok := value.(string); ok && decoded[name+"@odata.type"] == "Edm.Int64" {
			value = json.Number(number)
		}
		e.members[name] = value
	}
	return e, nil
}
