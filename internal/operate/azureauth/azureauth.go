// Package azureauth says as whom Usher reads and writes Azure Storage: as the
// managed identity of the app in Azure, as the developer elsewhere. Keys and
// shared access signatures are not taken, so none has to be kept safe.
package azureauth

import (
	"fmt"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// Settings that Azure makes, and one that people do.
const (
	settingEndpoint = "IDENTITY_ENDPOINT" // given by App Service and Functions where the app has an identity
	settingClientID = "AZURE_CLIENT_ID"
)

// Credential returns the managed identity where Azure offers one (IDENTITY_ENDPOINT is
// set): the user-assigned identity that AZURE_CLIENT_ID names, or else the system-assigned one.
// Elsewhere it is azidentity's default chain: environment, workload identity, managed
// identity of a VM, then who is signed in to Azure CLI, Azure Developer CLI or
// PowerShell. AZURE_TOKEN_CREDENTIALS=dev or =prod shortens that chain.
//
// It asks for no token, so it does not wait, and an identity that is missing
// is an error of the first use. Besides what getenv tells, azidentity reads the process's environment.
func Credential(getenv func(string) string) (azcore.TokenCredential, error) {
	if getenv(settingEndpoint) == "" {
		credential, err := azidentity.NewDefaultAzureCredential(nil)
		if err != nil {
			return nil, fmt.Errorf("no Azure credential: %w", err)
		}
		return credential, nil
	}
	options := new(azidentity.ManagedIdentityCredentialOptions)
	if id := getenv(settingClientID); id != "" {
		options.ID = azidentity.ClientID(id)
	}
	credential, err := azidentity.NewManagedIdentityCredential(options)
	if err != nil {
		return nil, fmt.Errorf("no managed identity (%s): %w", settingClientID, err)
	}
	return credential, nil
}
