// Package azureauth provides the identity with which Usher calls Azure: the managed identity of the app in Azure, and
// the developer's elsewhere. It supports no keys and no shared access signatures, so there are none to keep safe.
package azureauth

import (
	"fmt"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

const (
	settingEndpoint = "IDENTITY_ENDPOINT" // set by App Service and Functions if the app has an identity
	settingClientID = "AZURE_CLIENT_ID"   // set by the operator
)

// Credential returns the managed identity if Azure offers one (IDENTITY_ENDPOINT is set): the user-assigned identity
// that AZURE_CLIENT_ID names, or else the system-assigned one. Otherwise it returns azidentity's default chain:
// environment, workload identity, managed identity of a VM, then the user who is signed in to Azure CLI, Azure
// Developer CLI or PowerShell. AZURE_TOKEN_CREDENTIALS=dev or =prod shortens that chain.
//
// It requests no token, so it does not wait, and a missing identity is an error of the first use. Besides getenv,
// azidentity reads the environment of the process.
func Credential(getenv func(string) string) (azcore.TokenCredential, error) {
	if getenv(settingEndpoint) == "" {
		credential, err := azidentity.NewDefaultAzureCredential(nil)
		if err != nil {
			return nil, fmt.Errorf("no Azure credential: %w", err)
		}
		return credential, nil
	}
	clientID := getenv(settingClientID)
	options := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: azcore.ClientOptions{Retry: retries}}
	if clientID != "" {
		options.ID = azidentity.ClientID(clientID)
	}
	credential, err := azidentity.NewManagedIdentityCredential(options)
	if err != nil {
		return nil, fmt.Errorf("no managed identity (%s): %w", settingClientID, err)
	}
	return managedIdentity{credential, clientID}, nil
}
