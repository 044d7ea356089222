// A DPS instance and linked hubs to try the webhook with. Enrollments are not resources: `usher enroll` creates them.
param location string
param suffix string
param tags object
param hubs int
param disableLocalAuth bool
param principalId string
param principalType string

resource hub 'Microsoft.Devices/IotHubs@2023-06-30' = [for i in range(1, hubs): {
  name: 'iot-usher-${i}-${suffix}'
  location: location
  tags: tags
  sku: { name: 'S1', capacity: 1 }
  properties: { minTlsVersion: '1.2', disableLocalAuth: disableLocalAuth }
}]

// DPS signs in to the hubs with this identity, so no key of a hub is needed. It is a resource of its own, because it must
// have its role on the hubs before DPS links them.
resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: 'id-usher-dps-${suffix}'
  location: location
  tags: tags
}

// DPS creates devices in the hubs and writes their twins.
var hubDataContributor = '4fc6c259-987e-4a07-842e-c321cc9d413f'

resource link 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for i in range(0, hubs): {
  name: guid(hub[i].id, identity.id, hubDataContributor)
  scope: hub[i]
  properties: {
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', hubDataContributor)
  }
}]

resource dps 'Microsoft.Devices/provisioningServices@2026-08-31' = {
  name: 'dps-usher-${suffix}'
  location: location
  tags: tags
  sku: { name: 'S1', capacity: 1 }
  identity: { type: 'UserAssigned', userAssignedIdentities: { '${identity.id}': {} } }
  properties: {
    allocationPolicy: 'Hashed'
    disableLocalAuth: disableLocalAuth
    iotHubs: [for i in range(0, hubs): {
      location: location
      applyAllocationPolicy: true
      allocationWeight: 1
      hostName: hub[i].properties.hostName
      authenticationType: 'UserAssigned'
      selectedUserAssignedIdentityResourceId: identity.id
    }]
  }
  dependsOn: [link]
}

// `usher enroll` and `usher doctor` work with this role, without a connection string.
var provisioningDataContributor = 'dfce44e4-17b7-4bd1-a6d1-04996ec95633'

resource enroll 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(principalId)) {
  name: guid(dps.id, principalId, provisioningDataContributor)
  scope: dps
  properties: {
    principalId: principalId
    principalType: principalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', provisioningDataContributor)
  }
}

output host string = dps.properties.serviceOperationsHostName
