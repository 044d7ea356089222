package azureauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// retries end before any deadline of a caller, so that the endpoint's own error arrives and not that of the deadline.
// Whoever needs the token tries again later anyway. azidentity's default can take longer than a start waits for its
// rules.
var retries = policy.RetryOptions{MaxRetries: 2, RetryDelay: 250 * time.Millisecond, MaxRetryDelay: time.Second}

// managedIdentity adds to azidentity's credential an error that people can act on.
type managedIdentity struct {
	azcore.TokenCredential
	clientID string
}

func (m managedIdentity) GetToken(ctx context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	token, err := m.TokenCredential.GetToken(ctx, options)
	failed, ok := errors.AsType[*azidentity.AuthenticationFailedError](err)
	if !ok || failed.RawResponse == nil {
		return token, err
	}
	fix := "set " + settingClientID + " if the identity is a user-assigned one, or assign a system-assigned one to the app"
	if m.clientID != "" {
		fix = fmt.Sprintf("is the user-assigned identity %s, which %s names, assigned to the app?", m.clientID, settingClientID)
	}
	text := fmt.Sprintf("the managed identity's endpoint answers %s", failed.RawResponse.Status)
	if said := said(failed.RawResponse); said != "" {
		text += ": " + said
	}
	return token, &identityError{text + " (" + fix + ")", err}
}

// identityError is azidentity's error in other words.
type identityError struct {
	text  string
	cause error
}

func (e *identityError) Error() string { return e.text }

func (e *identityError) Unwrap() error { return e.cause }

// said is what the endpoint says in its answer: a message in JSON, or a text.
func said(response *http.Response) string {
	const most = 512
	text, err := runtime.Payload(response) // azidentity has read the body already
	if err != nil {
		return ""
	}
	var answer struct {
		Message     string `json:"message"` // of App Service; encoding/json ignores case
		Description string `json:"error_description"`
	}
	said := string(text)
	if json.Unmarshal(text, &answer) == nil && answer.Message+answer.Description != "" {
		said = strings.TrimSpace(answer.Message + " " + answer.Description)
	}
	said = strings.Join(strings.Fields(said), " ")
	if len(said) > most {
		said = strings.ToValidUTF8(said[:most], "") + "…"
	}
	return said
}
