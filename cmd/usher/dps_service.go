package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/configfile"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// serviceVersion is the version of the service API with which the fleet reads and makes enrollments.
const serviceVersion = "2021-10-01"

// errNoServiceKey means that a configuration has no key for the service API.
var errNoServiceKey = errors.New("no serviceKey")

// standInAPI is the service API of a stand-in that runs.
type standInAPI struct {
	client       *http.Client
	host, policy string
	key          []byte
}

func newStandInAPI(flags standInFlags, file configfile.File, at fleetPlace) (*standInAPI, error) {
	if len(file.Config.Policies) == 0 || file.Config.Policies[0].PrimaryKey == "" {
		return nil, errNoServiceKey
	}
	key, err := base64.StdEncoding.DecodeString(file.Config.Policies[0].PrimaryKey)
	if err != nil {
		return nil, fmt.Errorf("%s: serviceKey is not base64", flags.config)
	}
	client, err := standInClientAt(flags.folder, at.httpsAddress())
	return &standInAPI{client, file.Config.HostName(), file.Config.Policies[0].Name, key}, err
}

func (a *standInAPI) close() { a.client.CloseIdleConnections() }

// call sends body, unless it is nil, and reads the answer into target, unless that is nil. The status is 0 if there is no
// answer.
func (a *standInAPI) call(ctx context.Context, method, path string, body any, ifMatch string, target any) (status int, err error) {
	var text []byte
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return 0, err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, "https://"+a.host+path+"?api-version="+serviceVersion, bytes.NewReader(text))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", attest.NewToken(a.host, a.key, time.Now().Add(time.Hour), a.policy))
	if ifMatch != "" {
		request.Header.Set("If-Match", ifMatch)
	}
	response, err := a.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err = io.ReadAll(io.LimitReader(response.Body, 1<<20))
	switch {
	case err != nil:
	case response.StatusCode != http.StatusOK:
		var refusal struct{ Message string }
		_ = json.Unmarshal(text, &refusal)
		err = fmt.Errorf("the stand-in refuses %s %s: %s %s", method, path, response.Status, refusal.Message)
	case target != nil:
		err = json.Unmarshal(text, target)
	}
	return response.StatusCode, err
}

// keyOfStandIn is the primary key of an enrollment group that only the stand-in has, such as one by usher enroll.
func (flags *dpsFleetFlags) keyOfStandIn(ctx context.Context, file configfile.File, at fleetPlace, id string) ([]byte, error) {
	api, err := newStandInAPI(flags.standInFlags, file, at)
	if errors.Is(err, errNoServiceKey) {
		return nil, fmt.Errorf("%s has no enrollment group %s, and no serviceKey with which to ask the stand-in for the key of one of its own: give the group's key with --group-key, or add a serviceKey, such as openssl rand -base64 32 makes, and restart the stand-in", flags.config, id)
	}
	if err != nil {
		return nil, err
	}
	defer api.close()
	var attestation model.Attestation
	status, err := api.call(ctx, http.MethodPost, "/enrollmentGroups/"+url.PathEscape(id)+"/attestationmechanism", nil, "", &attestation)
	switch {
	case status == http.StatusNotFound:
		return nil, flags.noGroup(file, id)
	case err != nil:
		return nil, err
	case attestation.SymmetricKey == nil:
		return nil, fmt.Errorf("the group %s of the stand-in takes certificates, not keys: see usher dps certificate, and usher dps fleet --x509", id)
	}
	return attest.DecodeKey(attestation.SymmetricKey.PrimaryKey)
}

func (flags *dpsFleetFlags) noGroup(file configfile.File, id string) error {
	var names []string
	for _, group := range file.Groups {
		names = append(names, group.EnrollmentGroupID)
	}
	return fmt.Errorf("%s has no enrollment group %s, and neither has the stand-in; %s has %s", flags.config, id, flags.config, cmp.Or(strings.Join(names, ", "), "none"))
}
