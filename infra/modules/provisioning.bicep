// A DPS instance and linked hubs to try the webhook with. Enrollments are not resources: `usher enroll` creates them.
param location string
param suffix string
param tags object
param hubs int
param principalId string
param principalType string

resource hub 'Microsoft.Devices/IotHubs@2023-06-30' = [for i in range(1, hubs): {
  name: 'iot-usher-${i}-${suffix}'
  location: location
  tags: tags
  sku: { name: 'S1', capacity: 1 }
  properties: { minTlsVersion: '1.2' }
}]

resource dps 'Microsoft.Devices/provisioningServices@2022-12-12' = {
  name: 'dps-usher-${suffix}'
  location: location
  tags: tags
  sku: { name: 'S1', capacity: 1 }
  properties: {
    allocationPolicy: 'Hashed'
    // DPS keeps the keys; no output of this template contains them.
    iotHubs: [for i in range(0, hubs): {
      location: location
      applyAllocationPolicy: true
      allocationWeight: 1
      // The first policy of a new hub is iothubowner.
      connectionString: 'HostName=${hub[i].properties.hostName};SharedAccessKeyName=iothubowner;SharedAccessKey=${hub[i].listKeys().value[0].primaryKey}'
    }]
  }
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
