// The Function App: Flex Consumption, a custom handler, everything by its managed identity.
param location string
param suffix string
param tags object
param hostAccount string
param dataAccount string
param insights string
param instanceMemoryMB int
param alwaysReadyInstances int
param maximumInstances int
param perInstanceConcurrency int
param zoneRedundant bool
param updateStrategy string
param rulesFrom string
param lookups object
param keepRecords bool
param restrictToDps bool
param allowedAddresses string[]

resource host 'Microsoft.Storage/storageAccounts@2026-04-01' existing = {
  name: hostAccount

  resource blobs 'blobServices' existing = {
    name: 'default'

    resource packages 'containers' existing = {
      name: 'packages'
    }
  }
}

resource data 'Microsoft.Storage/storageAccounts@2026-04-01' existing = {
  name: dataAccount

  resource blobs 'blobServices' existing = {
    name: 'default'

    resource rules 'containers' existing = {
      name: 'rules'
    }

    resource lookups 'containers' existing = {
      name: 'lookups'
    }

    resource records 'containers' existing = {
      name: 'records'
    }
  }

  resource tables 'tableServices' existing = {
    name: 'default'

    resource lookups 'tables' existing = {
      name: 'lookups'
    }
  }
}

resource appInsights 'Microsoft.Insights/components@2020-02-02' existing = {
  name: insights
}

resource plan 'Microsoft.Web/serverfarms@2026-03-15' = {
  name: 'plan-usher-${suffix}'
  location: location
  tags: tags
  kind: 'functionapp'
  sku: { tier: 'FlexConsumption', name: 'FC1' }
  properties: { reserved: true, zoneRedundant: zoneRedundant }
}

var rulesContainer = '${data.properties.primaryEndpoints.blob}${data::blobs::rules.name}'
var recordsContainer = '${data.properties.primaryEndpoints.blob}${data::blobs::records.name}'

var dpsOnly = [
  {
    name: 'dps'
    description: 'Device Provisioning Service calls from here'
    tag: 'ServiceTag'
    ipAddress: 'AzureIoTHub'
    action: 'Allow'
    priority: 100
  }
]

resource app 'Microsoft.Web/sites@2026-03-15' = {
  name: 'func-usher-${suffix}'
  location: location
  tags: union(tags, { 'azd-service-name': 'webhook' })
  kind: 'functionapp,linux'
  identity: { type: 'SystemAssigned' }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    clientAffinityEnabled: false
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${host.properties.primaryEndpoints.blob}${host::blobs::packages.name}'
          authentication: { type: 'SystemAssignedIdentity' }
        }
      }
      runtime: { name: 'custom', version: '1.0' }
      siteUpdateStrategy: { type: updateStrategy }
      scaleAndConcurrency: {
        instanceMemoryMB: instanceMemoryMB
        maximumInstanceCount: maximumInstances
        alwaysReady: alwaysReadyInstances == 0 ? [] : [{ name: 'http', instanceCount: alwaysReadyInstances }]
        triggers: { http: { perInstanceConcurrency: perInstanceConcurrency } }
      }
    }
    siteConfig: {
      minTlsVersion: '1.2'
      scmMinTlsVersion: '1.2'
      http20Enabled: true
      ipSecurityRestrictionsDefaultAction: restrictToDps ? 'Deny' : 'Allow'
      ipSecurityRestrictions: concat(restrictToDps ? dpsOnly : [], map(allowedAddresses, (address, i) => {
        name: 'allowed-${i}'
        ipAddress: address
        action: 'Allow'
        priority: 200 + i
      }))
    }
  }

  // Publishing is only possible with an identity.
  resource scm 'basicPublishingCredentialsPolicies' = {
    name: 'scm'
    properties: { allow: false }
  }

  resource ftp 'basicPublishingCredentialsPolicies' = {
    name: 'ftp'
    properties: { allow: false }
  }

  resource settings 'config' = {
    name: 'appsettings'
    // What comes later wins: no setting of a look-up replaces one of the others.
    properties: union(lookups, {
      AzureWebJobsStorage__accountName: host.name
      AzureWebJobsStorage__credential: 'managedidentity'
      APPLICATIONINSIGHTS_CONNECTION_STRING: appInsights.properties.ConnectionString
      APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'Authorization=AAD'
      USHER_RULES: rulesFrom == 'storage' ? '${rulesContainer}/rules.tar.gz' : 'rules'
      USHER_LOG_LEVEL: 'info'
      USHER_RECORD_SINKS: keepRecords ? 'stdout,blob:${recordsContainer}' : 'stdout'
    }, rulesFrom == 'storage' ? {
      // The package is read-only; the temporary folder of an instance is writable.
      USHER_RULES_CACHE: '/tmp/usher/rules'
    } : {}, keepRecords ? {
      USHER_RECORD_SPOOL: '/tmp/usher/records'
    } : {})
    // If the app started before it may read its rules, it would hold devices for a while.
    dependsOn: [readRules, readSnapshots, readRows, appendRecords, hostStorage, publishTelemetry]
  }
}

// The roles of the identity. It has no others.
var blobDataOwner = 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b'
var blobDataReader = '2a2b9908-6ea1-4ae2-8e65-a410df84e7d1'
var monitoringMetricsPublisher = '3913510d-42f4-4e42-8a64-420c390055eb'

// The Functions host keeps its leases and keys there and needs this role.
resource hostStorage 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(host.id, app.id, blobDataOwner)
  scope: host
  properties: {
    principalId: app.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobDataOwner)
  }
}

resource readRules 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(data::blobs::rules.id, app.id, blobDataReader)
  scope: data::blobs::rules
  properties: {
    principalId: app.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobDataReader)
  }
}

resource readSnapshots 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(data::blobs::lookups.id, app.id, blobDataReader)
  scope: data::blobs::lookups
  properties: {
    principalId: app.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobDataReader)
  }
}

var tableDataReader = '76199698-9eea-4c19-bc75-cec21354c6b6'

resource readRows 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(data::tables::lookups.id, app.id, tableDataReader)
  scope: data::tables::lookups
  properties: {
    principalId: app.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', tableDataReader)
  }
}

// No built-in role may append without also being allowed to overwrite and delete.
resource appender 'Microsoft.Authorization/roleDefinitions@2022-04-01' = {
  name: guid(resourceGroup().id, 'usher-record-appender')
  properties: {
    roleName: 'Usher record appender ${suffix}'
    description: 'Creates append blobs, appends to them, and reads them. It may not overwrite or delete.'
    type: 'CustomRole'
    assignableScopes: [resourceGroup().id]
    permissions: [
      {
        actions: []
        notActions: []
        dataActions: [
          'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/add/action'
          'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read'
        ]
        notDataActions: []
      }
    ]
  }
}

resource appendRecords 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(data::blobs::records.id, app.id, appender.id)
  scope: data::blobs::records
  properties: {
    principalId: app.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', appender.name)
  }
}

resource publishTelemetry 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(appInsights.id, app.id, monitoringMetricsPublisher)
  scope: appInsights
  properties: {
    principalId: app.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', monitoringMetricsPublisher)
  }
}

output name string = app.name
output url string = 'https://${app.properties.defaultHostName}/api/allocate'
