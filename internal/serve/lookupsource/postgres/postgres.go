// Package postgres looks rows up in PostgreSQL. The operator writes the query; the key of a row is its one parameter,
// and nothing of it is ever part of SQL. The columns of what it returns are the members of the row.
package postgres

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/serve/lookupsource/fault"
	"github.com/usher-dps/usher/internal/serve/remotefile"
	"github.com/usher-dps/usher/lookup"
)

const (
	// DefaultTimeout is how long a statement may take at the server: longer than any look-up may.
	DefaultTimeout = 5 * time.Second

	// maxConnections bounds the pool. A look-up takes a few milliseconds, so that this is more than a thousand per second.
	maxConnections = 8
	connectTimeout = 5 * time.Second
	// lifetime and idleTime bound a connection, so that they spread over new servers and end where they are not needed.
	lifetime, idleTime = 30 * time.Minute, 5 * time.Minute
	// maxMessage bounds what the server sends at once, in bytes: a row, above all.
	maxMessage = 2 << 20

	// entraScope is the scope of tokens that Azure Database for PostgreSQL takes as passwords. Source:
	// https://learn.microsoft.com/azure/postgresql/flexible-server/how-to-configure-sign-in-azure-ad-authentication
	entraScope = "https://ossrdbms-aad.database.windows.net/.default"
	// entraParameter in a URL asks for such a token.
	entraParameter = "entra"

	statement = "usher_lookup"
)

// Options configure a [Source].
type Options struct {
	// URL is postgres://USER:PASSWORD@HOST/DATABASE, with the parameters of libpq. With entra=true it has no password: an
	// Entra token is the password. Unless the host is this machine, TLS verifies the server in full.
	URL string
	// Query returns at most one row for the key, its one parameter: SELECT hub, tenant FROM devices WHERE serial = $1::text
	Query string
	// Timeout is how long the query may take at the server; 0 means DefaultTimeout.
	Timeout time.Duration
	// Credential returns an Azure identity when a token is first needed.
	Credential func() (azcore.TokenCredential, error)
}

// Source is a [lookup.Source]. It connects when it is first used, and again when a connection is lost.
type Source struct {
	pool  *pgxpool.Pool
	query string
}

// New returns a source. The error says what is wrong with the options; it contains nothing of the URL.
func New(options Options) (*Source, error) {
	address, entra, err := parseURL(options.URL)
	if err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(address)
	if err != nil {
		return nil, errors.New("a parameter of the URL is not one of libpq, or its value is wrong")
	}
	c := config.ConnConfig
	switch {
	case c.User == "" || c.Database == "":
		return nil, errors.New("the URL names no user or no database: write postgres://USER@HOST/DATABASE")
	case entra && options.Credential == nil:
		return nil, errors.New("there is no Azure identity for entra=true")
	}
	if err := verifies(c.Config); err != nil {
		return nil, err
	}
	if strings.Contains(options.Query, "\x00") || strings.TrimSpace(options.Query) == "" {
		return nil, errors.New("there is no query: write SELECT … WHERE … = $1::text")
	}
	if c.ConnectTimeout == 0 || c.ConnectTimeout > connectTimeout {
		c.ConnectTimeout = connectTimeout
	}
	c.MaxProtocolMessageBodyLen = maxMessage
	c.RuntimeParams["application_name"] = "usher"
	c.RuntimeParams["default_transaction_read_only"] = "on"
	c.RuntimeParams["statement_timeout"] = strconv.FormatInt(cmp.Or(options.Timeout, DefaultTimeout).Milliseconds(), 10)
	c.RuntimeParams["TimeZone"] = "UTC"
	config.MaxConns, config.MinConns, config.MinIdleConns = maxConnections, 0, 0
	config.MaxConnLifetime, config.MaxConnLifetimeJitter, config.MaxConnIdleTime = lifetime, lifetime/10, idleTime
	if entra {
		config.BeforeConnect = tokenAsPassword(options.Credential)
	}
	query := strings.TrimRight(options.Query, "; \t\r\n")
	config.AfterConnect = prepare(query)
	pool, err := pgxpool.NewWithConfig(context.Background(), config) // connects to nothing yet
	if err != nil {
		return nil, presentable(err)
	}
	return &Source{pool, query}, nil
}

// parseURL takes what is ours out of the URL, and adds what is left out.
func parseURL(text string) (address string, entra bool, err error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return "", false, errors.New("not a URL such as postgres://USER@HOST/DATABASE")
	}
	parameters := u.Query()
	if u.Host == "" && parameters.Get("host") == "" {
		return "", false, errors.New("the URL names no host: write postgres://USER@HOST/DATABASE")
	}
	if value := parameters.Get(entraParameter); value != "" {
		if entra, err = strconv.ParseBool(value); err != nil {
			return "", false, errors.New("entra is neither true nor false")
		}
	}
	parameters.Del(entraParameter)
	if _, hasPassword := u.User.Password(); entra && (hasPassword || parameters.Has("password")) {
		return "", false, errors.New("the URL has a password, and entra=true: remove one of the two")
	}
	if !parameters.Has("sslmode") && !isLocal(cmp.Or(parameters.Get("host"), u.Hostname())) {
		parameters.Set("sslmode", "verify-full")
	}
	u.RawQuery = parameters.Encode()
	return u.String(), entra, nil
}

// verifies refuses a way to connect to another machine on which the server could be someone else.
func verifies(c pgconn.Config) error {
	ways := []*pgconn.FallbackConfig{{Host: c.Host, TLSConfig: c.TLSConfig}}
	for _, way := range append(ways, c.Fallbacks...) {
		if !isLocal(way.Host) && (way.TLSConfig == nil || way.TLSConfig.InsecureSkipVerify) {
			return errors.New("sslmode must be verify-full, unless the host is the loopback address or a Unix socket")
		}
	}
	return nil
}

func isLocal(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback() || filepath.IsAbs(host)
}

func tokenAsPassword(credential func() (azcore.TokenCredential, error)) func(context.Context, *pgx.ConnConfig) error {
	return func(ctx context.Context, c *pgx.ConnConfig) error {
		azure, err := credential()
		if err != nil {
			return fault.Token(entraScope, remotefile.Presentable(err))
		}
		// The identity keeps tokens, and renews them in time.
		token, err := azure.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{entraScope}})
		if err != nil {
			return fault.Token(entraScope, remotefile.Presentable(err))
		}
		c.Password = token.Token
		return nil
	}
}

// prepare makes the statement of each connection. PostgreSQL makes JSON of the row, because it knows all its types.
func prepare(query string) func(context.Context, *pgx.Conn) error {
	// The end of a line ends a comment. A second row is an error.
	text := "SELECT to_jsonb(usher_row) FROM (\n" + query + "\n) AS usher_row LIMIT 2"
	return func(ctx context.Context, conn *pgx.Conn) error {
		prepared, err := conn.Prepare(ctx, statement, text)
		if err != nil {
			return err
		}
		if n := len(prepared.ParamOIDs); n != 1 {
			return fault.New(fault.Refused, "the query has %d parameters: it needs one, the key, as $1::text", n)
		}
		switch prepared.ParamOIDs[0] {
		case pgtype.TextOID, pgtype.VarcharOID, pgtype.BPCharOID:
			return nil
		}
		// PostgreSQL would refuse keys that are not of the type, and quote them.
		return fault.New(fault.Refused, "the parameter of the query is not a text: write $1::text, and cast the column if need be")
	}
}

// Prepare connects, and checks that the query returns the columns that rows must have as d declares. A *fault.Error says
// why that is not known; any other error is what is wrong with the query.
func (s *Source) Prepare(ctx context.Context, d *lookups.Declaration) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return presentable(err)
	}
	defer conn.Release()
	described, err := conn.Conn().Prepare(ctx, "", s.query)
	if err != nil {
		return presentable(err)
	}
	required, _ := d.RowSchema["required"].([]any)
	for _, name := range required {
		if !slices.ContainsFunc(described.Fields, func(f pgconn.FieldDescription) bool { return f.Name == name }) {
			return fmt.Errorf("the query returns no column %s, which %s requires: select it, or rename one with AS", name, d.Place)
		}
	}
	return nil
}

// Find implements [lookup.Source]. An error is a *fault.Error.
func (s *Source) Find(ctx context.Context, key string) (lookup.Answer, error) {
	if strings.Contains(key, "\x00") || !utf8.ValidString(key) {
		return lookup.Answer{}, nil // no text in PostgreSQL can be equal to it
	}
	text, err := s.read(ctx, key)
	if lost(err) && ctx.Err() == nil {
		// The server was restarted, say: its other connections are lost too.
		s.pool.Reset()
		text, err = s.read(ctx, key)
	}
	switch {
	case err != nil:
		return lookup.Answer{}, presentable(err)
	case text == nil:
		return lookup.Answer{}, nil
	}
	return parseRow(text)
}

// read returns a row as JSON, nil if there is none.
func (s *Source) read(ctx context.Context, key string) ([]byte, error) {
	rows, err := s.pool.Query(ctx, statement, key)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var text []byte
	for n := 0; rows.Next(); n++ {
		if n > 0 {
			return nil, fault.New(fault.Schema, "the query returns more than one row for a key")
		}
		text = bytes.Clone(rows.RawValues()[0])
	}
	return text, rows.Err()
}

// lost reports whether a connection of the pool ended, so that another one may do better.
func lost(err error) bool {
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		return refused.Code == "57P01" || refused.Code == "57P02" // the server, or an administrator, ends the connection
	}
	_, unreachable := errors.AsType[*pgconn.ConnectError](err)
	_, known := errors.AsType[*fault.Error](err)
	return err != nil && !unreachable && !known
}

func parseRow(text []byte) (lookup.Answer, error) {
	// The binary form of jsonb is a version, 1, and the text.
	decoder := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(text, []byte{1})))
	decoder.UseNumber()
	var row map[string]any
	if err := decoder.Decode(&row); err != nil || row == nil {
		return lookup.Answer{}, fault.New(fault.Schema, "the row is not a JSON object")
	}
	for name, value := range row {
		if value == nil {
			delete(row, name) // NULL is absent
		}
	}
	return lookup.Answer{Row: row}, nil
}

// Close closes the connections, after those who use them.
func (s *Source) Close() { s.pool.Close() }

// kinds are those of classes of SQLSTATE whose messages name objects, settings or states of the server. The messages of
// others can quote the key or the row. Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
var kinds = map[string]fault.Kind{
	"08": fault.Unreachable, "28": fault.Denied, "3D": fault.Refused, "3F": fault.Refused, "42": fault.Refused,
	"53": fault.Unavailable, "55": fault.Unavailable, "57": fault.Unavailable, "58": fault.Unavailable,
}

// presentable makes a fault of an error.
func presentable(err error) error {
	if known, ok := errors.AsType[*fault.Error](err); ok {
		return known
	}
	refused, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return fault.Transport(err)
	}
	kind, quotable := kinds[refused.Code[:min(2, len(refused.Code))]]
	switch {
	case !quotable:
		return fault.New(fault.Failed, "PostgreSQL refuses with SQLSTATE %s", refused.Code)
	case refused.Code == "57014":
		kind = fault.Timeout // the server's own limit
	case refused.Code == "42501":
		kind = fault.Denied
	}
	return fault.New(kind, "PostgreSQL refuses with SQLSTATE %s: %s", refused.Code, fault.Plain(refused.Message))
}
