package sink

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/appendblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"

	"github.com/usher-dps/usher/internal/serve/decisionlog/spool"
)

// BlobBatchBytes bounds one delivery, newlines included. All versions of the service take a block of this size. Source:
// https://learn.microsoft.com/rest/api/storageservices/append-block
const BlobBatchBytes = 4 << 20

// BlobLinger is how long records should wait for others: a block every five seconds is 17,280 in a day, of the 50,000
// that a blob takes.
const BlobLinger = 5 * time.Second

// BlobOptions configure a [Blob].
type BlobOptions struct {
	// Container is the URL of a container or of a folder in it. Required.
	Container string
	// Credential needs the right to write blobs there. Required.
	Credential azcore.TokenCredential
	// Instance distinguishes machines in the names of blobs. It need not be unique: a blob is never shared. Empty means
	// instance.
	Instance string
	// Transport sends requests; nil means the default of the Azure SDK.
	Transport policy.Transporter
}

// Blob appends records, each on a line, to blobs such as records/2026/11/22/INSTANCE-N.ndjson. The date is that of the
// delivery, in UTC. Each process starts its own blob, and another one each day and when the service says that the blob
// is full, which is after 50,000 blocks.
//
// A block is appended at a stated position, so a block whose answer was lost is not appended twice.
type Blob struct {
	options BlobOptions
	client  appendblob.ClientOptions

	current  *appendblob.Client // nil if no blob is open yet
	day      string
	number   int
	position int64
}

// NewBlob returns a sink that has not called the service yet.
func NewBlob(options BlobOptions) (*Blob, error) {
	if err := checkContainer(options.Container); err != nil {
		return nil, err
	}
	if options.Credential == nil {
		return nil, errors.New("blob needs a credential")
	}
	options.Instance = cmp.Or(notInNames.ReplaceAllString(options.Instance, ""), "instance")
	options.Instance = options.Instance[:min(len(options.Instance), 32)]
	b := &Blob{options: options}
	// The spool retries. A second layer of retries below it would only prolong a delivery.
	b.client.Retry = policy.RetryOptions{MaxRetries: -1}
	b.client.Transport = options.Transport
	b.client.Telemetry = policy.TelemetryOptions{ApplicationID: "usher"}
	return b, nil
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9._-]`)

// Deliver appends records. It must not be called twice at the same time.
func (b *Blob) Deliver(ctx context.Context, records [][]byte) error {
	block := append(bytes.Join(records, []byte{'\n'}), '\n')
	if err := b.deliver(ctx, block); err != nil {
		return explain(err)
	}
	return nil
}

func (b *Blob) deliver(ctx context.Context, block []byte) error {
	if day := time.Now().UTC().Format("2006/01/02"); b.current == nil || b.day != day {
		if err := b.create(ctx, day); err != nil {
			return err
		}
	}
	err := b.append(ctx, block, 0)
	switch {
	case bloberror.HasCode(err, bloberror.AppendPositionConditionNotMet):
		// Something is behind the position: this block, or the part of it that an earlier call appended before its
		// answer was lost.
		done, readErr := b.appended(ctx, block)
		if readErr != nil {
			return readErr
		}
		if done >= 0 {
			return b.append(ctx, block, done)
		}
	case bloberror.HasCode(err, bloberror.BlobNotFound, bloberror.BlockCountExceedsLimit, "BlobIsSealed", bloberror.InvalidBlobType):
	default:
		return err
	}
	if err := b.create(ctx, b.day); err != nil {
		return err
	}
	return b.append(ctx, block, 0)
}

// create creates a new blob.
func (b *Blob) create(ctx context.Context, day string) error {
	if b.day != day {
		b.day, b.number = day, 0
	}
	b.current = nil
	for {
		b.number++
		address, err := url.JoinPath(b.options.Container, "records", b.day, fmt.Sprintf("%s-%d.ndjson", b.options.Instance, b.number))
		if err != nil {
			return err
		}
		client, err := appendblob.NewClient(address, b.options.Credential, &b.client)
		if err != nil {
			return err
		}
		never := azcore.ETagAny
		_, err = client.Create(ctx, &appendblob.CreateOptions{
			AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: &never}},
			HTTPHeaders:      &blob.HTTPHeaders{BlobContentType: new("application/x-ndjson")},
		})
		if bloberror.HasCode(err, bloberror.BlobAlreadyExists) {
			continue // it belongs to an earlier process
		}
		if err != nil {
			b.number-- // to be tried again
			return err
		}
		b.current, b.position = client, 0
		return nil
	}
}

// append appends the block, whose first bytes are there already. The position moves only with the whole block: after an
// error, the spool delivers all of it again.
func (b *Blob) append(ctx context.Context, block []byte, there int) error {
	if there < len(block) {
		_, err := b.current.AppendBlock(ctx, streaming.NopCloser(bytes.NewReader(block[there:])), &appendblob.AppendBlockOptions{
			AppendPositionAccessConditions: &appendblob.AppendPositionAccessConditions{AppendPosition: new(b.position + int64(there))},
		})
		if err != nil {
			return err
		}
	}
	b.position += int64(len(block))
	return nil
}

// appended returns how much of the block is behind the position already; -1 if something else is there.
func (b *Blob) appended(ctx context.Context, block []byte) (int, error) {
	response, err := b.current.DownloadStream(ctx, &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: b.position}})
	if bloberror.HasCode(err, bloberror.InvalidRange) {
		return -1, nil // the blob is shorter than it was
	}
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	there, err := io.ReadAll(io.LimitReader(response.Body, int64(len(block))+1))
	if err != nil {
		return 0, err
	}
	if !bytes.HasPrefix(block, there) {
		return -1, nil
	}
	return len(there), nil
}

// explain shortens an error of the SDK, which prints whole answers, to a line that says what to do. If the answer says
// when to come back, it returns a Busy.
func explain(err error) error {
	response, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok {
		text := strings.Join(strings.Fields(err.Error()), " ")
		return errors.New(text[:min(len(text), 400)])
	}
	fix := ""
	switch {
	case response.StatusCode == http.StatusForbidden:
		fix = "; give the app's identity the role Storage Blob Data Contributor on the container, and check whether the account's network rules let it in"
	case response.StatusCode == http.StatusUnauthorized:
		fix = "; the account does not accept the identity's token: is it of the same tenant?"
	case response.ErrorCode == string(bloberror.ContainerNotFound):
		fix = "; create the container"
	}
	short := fmt.Errorf("%d %s%s", response.StatusCode, cmp.Or(response.ErrorCode, http.StatusText(response.StatusCode)), fix)
	if response.RawResponse != nil {
		if wait := retryAfter(response.RawResponse.Header); wait > 0 {
			return &spool.Busy{Wait: wait, Err: short}
		}
	}
	return short
}

// retryAfter is how long an answer asks the caller to wait; 0 if it does not.
func retryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil && seconds > 0 {
		return time.Duration(min(seconds, 24*60*60)) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}
