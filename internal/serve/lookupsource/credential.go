package lookupsource

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"golang.org/x/sync/singleflight"
)

// tokenTimeout bounds the request of a token.
const tokenTimeout = 30 * time.Second

// credential is the identity of the app. A look-up waits for a token no longer than its own timeout, but the request of
// the token goes on: the first one can take seconds, and would otherwise be given up again and again. azidentity keeps
// the tokens.
type credential struct {
	open func() (azcore.TokenCredential, error)

	mu     sync.Mutex
	opened azcore.TokenCredential
	flight singleflight.Group
}

func (c *credential) get() (azcore.TokenCredential, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opened == nil {
		if c.open == nil {
			return nil, errors.New("this program has no Azure identity")
		}
		opened, err := c.open()
		if err != nil {
			return nil, err
		}
		c.opened = opened
	}
	return c.opened, nil
}

// GetToken implements [azcore.TokenCredential].
func (c *credential) GetToken(ctx context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	inner, err := c.get()
	if err != nil {
		return azcore.AccessToken{}, err
	}
	key := strings.Join(slices.Concat(options.Scopes, []string{options.TenantID, options.Claims}), " ")
	if options.EnableCAE {
		key += " CAE"
	}
	result := c.flight.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tokenTimeout)
		defer cancel()
		return inner.GetToken(ctx, options)
	})
	select {
	case r := <-result:
		token, _ := r.Val.(azcore.AccessToken)
		return token, r.Err
	case <-ctx.Done():
		return azcore.AccessToken{}, ctx.Err()
	}
}
