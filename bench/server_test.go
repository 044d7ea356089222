package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What the webhook by hand costs means something only if it decides what Usher does.
func TestByHandAnswersAsUsher(t *testing.T) {
	t.Parallel()
	requests, err := readRequests("..")
	if err != nil {
		t.Fatal(err)
	}
	byHand, err := bench{repository: "..", requests: requests}.byHand(t.Context())
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("Node is not installed")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer byHand.stop()
	usher, err := newDecider(t.Context(), "../rules")
	if err != nil {
		t.Fatal(err)
	}
	tutorial := requests["tutorial"]
	withTwin := bytes.Replace(tutorial, []byte(`"enrollmentGroup":{`),
		[]byte(`"enrollmentGroup":{"initialTwin":{"tags":{"floor":3},"properties":{"desired":{"state":"off","interval":10}}},`), 1)
	for name, c := range map[string]struct {
		body   []byte
		status int
	}{
		"toaster":       {tutorial, http.StatusOK},
		"initial twin":  {withTwin, http.StatusOK},
		"heat pump":     {bytes.ReplaceAll(tutorial, []byte("tstrsd-007"), []byte("HPSD-088")), http.StatusOK},
		"neither":       {bytes.ReplaceAll(tutorial, []byte("tstrsd-007"), []byte("fridge-1")), http.StatusForbidden},
		"no linked hub": {bytes.ReplaceAll(tutorial, []byte("toasters"), []byte("kettles")), http.StatusServiceUnavailable},
		"not JSON":      {tutorial[1:], http.StatusBadRequest},
	} {
		response, err := byHand.client.Post(byHand.url, "application/json", bytes.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		_, want := usher.AllocateJSON(t.Context(), c.body)
		if got := response.StatusCode; got != c.status || want.Status() != c.status {
			t.Errorf("%s: status %d, Usher %d, want %d: %s", name, got, want.Status(), c.status, text)
		}
		if c.status == http.StatusOK && !cmp.Equal(decoded(t, text), decoded(t, want.Response.AppendJSON(nil))) {
			t.Errorf("%s: %s, want %s", name, text, want.Response.AppendJSON(nil))
		}
	}
}

func decoded(t *testing.T, text []byte) (value any) {
	t.Helper()
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return value
}
