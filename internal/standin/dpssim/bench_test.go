package dpssim_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// BenchmarkRegister is one registration with one call of a webhook in the same process, until the device has its
// answer.
func BenchmarkRegister(b *testing.B) {
	file, err := store.Open(filepath.Join(b.TempDir(), "state"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = file.Close() })
	for name, state := range map[string]*store.Store{"memory": store.Memory(), "file": file} {
		b.Run(name, func(b *testing.B) {
			service, err := dpssim.New(dpssim.Config{
				IDScope: idScope, Hubs: []dpssim.LinkedHub{{HostName: hubA}},
			}, state, hub.New(state, time.Now))
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(service.Close)
			service.SetWebhookTransport(&hook{answer: answers(http.StatusOK, `{"iotHubHostName":"`+hubA+`"}`)})
			group := customGroup(nil)
			if err := service.Groups.Put("toasters", &group, ""); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				caller := groupDevice(fmt.Sprint("device-", i))
				status, err := service.Register(caller, model.RegistrationRequest{})
				for err == nil && status.Status == model.StatusAssigning {
					status, err = service.Operation(caller, status.OperationID)
				}
				if err != nil || status.Status != model.StatusAssigned {
					b.Fatal(status, err)
				}
			}
		})
	}
}
