package lookupsource

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/serve/lookupsource/table"
	"github.com/usher-dps/usher/internal/serve/lookupsource/web"
	"github.com/usher-dps/usher/lookup"
)

// Backend is a source of rows with what Sources need to know about it. Only the Source and the Kind are required.
type Backend struct {
	lookup.Source
	// Kind names the source in records and metrics.
	Kind string
	// Local is set if the rows are in this process or on its disk: they are neither kept again, nor is a request worth
	// sharing or sparing.
	Local bool
	// Prepare checks what can be checked before the first look-up, such as that the columns fit the declaration. A
	// *fault.Error does not end a start, because a source can come back; any other error does. It is called for each set
	// of rules, also at the same time.
	Prepare func(context.Context, *lookups.Declaration) error
	// Run keeps the source up to date until the context ends.
	Run func(context.Context)
	// State says which state of the data is in use, and of when it is.
	State func() (version string, asOf time.Time)
}

// opener opens the sources that settings name.
type opener struct {
	credential azcore.TokenCredential
	transport  http.RoundTripper
}

func (o opener) open(s Setting) (Backend, error) {
	switch s.Kind {
	case Table:
		location, err := table.ParseLocation(s.Address)
		if err != nil {
			return Backend{}, err
		}
		source, err := table.New(table.Options{Location: location, Credential: o.credential, Transport: o.transport})
		if err != nil {
			return Backend{}, err
		}
		return Backend{Source: source, Kind: string(s.Kind), Prepare: briefly(source.Prepare)}, nil
	case Web:
		template, err := web.ParseTemplate(s.Address)
		if err != nil {
			return Backend{}, err
		}
		source := web.New(web.Options{Template: template, Audience: s.Audience, Credential: o.credential, Header: s.Header, Transport: o.transport})
		return Backend{Source: source, Kind: string(s.Kind), Prepare: briefly(source.Prepare)}, nil
	}
	return Backend{}, fmt.Errorf("a %s source is not supported", s.Kind)
}

// prepareTimeout bounds how long a start waits for a source that is asked over the network.
const prepareTimeout = 2 * time.Second

func briefly(prepare func(context.Context) error) func(context.Context, *lookups.Declaration) error {
	return func(ctx context.Context, _ *lookups.Declaration) error {
		ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
		defer cancel()
		return prepare(ctx)
	}
}
