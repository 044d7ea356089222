// Application Insights without keys, the workbook and the alerts.
param location string
param suffix string
param tags object
param alertEmail string

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' = {
  name: 'log-usher-${suffix}'
  location: location
  tags: tags
  properties: {
    sku: { name: 'PerGB2018' }
    retentionInDays: 90
    features: { disableLocalAuth: true }
  }
}

resource component 'Microsoft.Insights/components@2020-02-02' = {
  name: 'appi-usher-${suffix}'
  location: location
  tags: tags
  kind: 'web'
  properties: {
    Application_Type: 'web'
    WorkspaceResourceId: workspace.id
    DisableLocalAuth: true // telemetry is only accepted from identities
  }
}

resource group 'Microsoft.Insights/actionGroups@2023-01-01' = if (!empty(alertEmail)) {
  name: 'ag-usher-${suffix}'
  location: 'global'
  tags: tags
  properties: {
    groupShortName: 'usher'
    enabled: true
    emailReceivers: [
      {
        name: 'operators'
        emailAddress: alertEmail
        useCommonAlertSchema: true
      }
    ]
  }
}

module alerts '../monitoring/azure-alerts.json' = {
  name: 'alerts'
  params: {
    applicationInsightsId: component.id
    actionGroupIds: empty(alertEmail) ? [] : [group.id]
    prefix: 'usher-${suffix}'
    location: location
  }
}

resource workbook 'Microsoft.Insights/workbooks@2023-06-01' = {
  name: guid(component.id, 'usher')
  location: location
  tags: tags
  kind: 'shared'
  properties: {
    displayName: 'Usher'
    category: 'workbook'
    sourceId: component.id
    serializedData: loadTextContent('../monitoring/workbook.json')
  }
}

output insights string = component.name
