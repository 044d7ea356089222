// Two storage accounts without shared keys. The Functions host has wide permissions on its own account; on the other
// one, the webhook may only read rules and snapshots, and append records.
param location string
param suffix string
param tags object
param zoneRedundant bool
param dataRedundancy string
param principalId string
param principalType string

var properties = {
  minimumTlsVersion: 'TLS1_2'
  supportsHttpsTrafficOnly: true
  allowSharedKeyAccess: false
  allowBlobPublicAccess: false
  allowCrossTenantReplication: false
  defaultToOAuthAuthentication: true
  publicNetworkAccess: 'Enabled'
}

resource host 'Microsoft.Storage/storageAccounts@2026-04-01' = {
  name: 'sthost${suffix}'
  location: location
  tags: tags
  // Instances in several zones need the account, which has their leases, keys and package, when a zone is down.
  sku: { name: zoneRedundant ? 'Standard_ZRS' : 'Standard_LRS' }
  kind: 'StorageV2'
  properties: properties

  resource blobs 'blobServices' = {
    name: 'default'

    resource packages 'containers' = {
      name: 'packages'
    }
  }
}

resource data 'Microsoft.Storage/storageAccounts@2026-04-01' = {
  name: 'stdata${suffix}'
  location: location
  tags: tags
  sku: { name: dataRedundancy }
  kind: 'StorageV2'
  properties: properties

  resource blobs 'blobServices' = {
    name: 'default'
    properties: {
      // A bundle that was overwritten by mistake can be restored quickly.
      isVersioningEnabled: true
      deleteRetentionPolicy: { enabled: true, days: 30 }
    }

    resource rules 'containers' = {
      name: 'rules'
    }

    resource lookups 'containers' = {
      name: 'lookups'
    }

    resource records 'containers' = {
      name: 'records'
    }
  }

  resource tables 'tableServices' = {
    name: 'default'

    resource lookups 'tables' = {
      name: 'lookups'
    }
  }
}

// For people, who upload rules and snapshots, and read records.
var blobDataContributor = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'
var blobDataReader = '2a2b9908-6ea1-4ae2-8e65-a410df84e7d1'
var tableDataContributor = '0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3'

resource uploadRules 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(principalId)) {
  name: guid(data::blobs::rules.id, principalId, blobDataContributor)
  scope: data::blobs::rules
  properties: {
    principalId: principalId
    principalType: principalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobDataContributor)
  }
}

resource uploadSnapshots 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(principalId)) {
  name: guid(data::blobs::lookups.id, principalId, blobDataContributor)
  scope: data::blobs::lookups
  properties: {
    principalId: principalId
    principalType: principalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobDataContributor)
  }
}

resource writeRows 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(principalId)) {
  name: guid(data::tables::lookups.id, principalId, tableDataContributor)
  scope: data::tables::lookups
  properties: {
    principalId: principalId
    principalType: principalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', tableDataContributor)
  }
}

resource readRecords 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(principalId)) {
  name: guid(data::blobs::records.id, principalId, blobDataReader)
  scope: data::blobs::records
  properties: {
    principalId: principalId
    principalType: principalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobDataReader)
  }
}

output hostAccount string = host.name
output dataAccount string = data.name
