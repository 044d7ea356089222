// The webhook on Azure Functions, in its own resource group.
//
//   azd up            builds, creates the resources below, and publishes
//   az deployment sub create -l westeurope -f infra/main.bicep -p environmentName=prod location=westeurope
targetScope = 'subscription'

@description('Name of this deployment, such as prod. Resource names are derived from it.')
@minLength(1)
@maxLength(20)
param environmentName string

@description('Region of all resources. Choose that of DPS: every call goes there and back.')
param location string

@description('Memory of an instance in MB, shared by the Functions host (about 160 MB) and the handler (30 to 80 MB).')
@allowed([512, 2048, 4096])
param instanceMemoryMB int = 512

@description('Number of instances that always run. With 0, the first call after a pause waits for a cold start, and DPS repeats the call if that takes too long.')
@minValue(0)
@maxValue(20)
param alwaysReadyInstances int = 1

@description('Maximum number of instances. DPS admits 1,000 registrations per minute, which one instance can serve.')
@minValue(1)
@maxValue(1000)
param maximumInstances int = 40

@description('Number of concurrent calls of an instance before another one is started.')
@minValue(1)
@maxValue(1000)
param perInstanceConcurrency int = 32

@description('Spread the instances and the account of the host over availability zones, in regions that have them. Azure then keeps at least two instances ready, and bills them.')
param zoneRedundant bool = false

@description('How a new package or setting reaches running instances: Recreate ends calls in flight, so DPS repeats them; RollingUpdate lets them finish, and is in preview.')
@allowed(['Recreate', 'RollingUpdate'])
param updateStrategy string = 'Recreate'

@description('Source of the rules: "package" means those in the deployment package; "storage" means rules.tar.gz in the container rules of the data account, which is fetched again when it changes.')
@allowed(['package', 'storage'])
param rulesFrom string = 'package'

@description('Settings USHER_LOOKUP_* of look-ups, by name. The deployment keeps them in plain text: write a secret as a reference to Key Vault.')
param lookups object = {}

@description('Keep decision records in the container records of the data account, in addition to Application Insights.')
param keepRecords bool = true

@description('Admit only calls from the service tag AzureIoTHub, from which DPS calls. The function key is always required.')
param restrictToDps bool = true

@description('Address ranges (CIDR), separated by commas, that may also call, for example to run usher doctor.')
param allowedAddresses string = ''

@description('Redundancy of the data account. Regions without availability zones only have Standard_LRS.')
@allowed(['Standard_LRS', 'Standard_ZRS', 'Standard_GZRS'])
param dataRedundancy string = 'Standard_ZRS'

@description('Create a DPS instance with linked hubs to try the webhook with.')
param createProvisioningService bool = false

@description('Number of hubs to create and link to that DPS instance. An S1 hub costs money from the first day.')
@minValue(1)
@maxValue(10)
param sampleHubs int = 2

@description('Refuse shared access keys at the service APIs of that DPS instance and of its hubs. It is not certain that devices can still register with symmetric keys.')
param disableLocalAuth bool = false

@description('Object ID of the user who may upload rules, read records and manage enrollments; none if empty. azd sets it.')
param principalId string = ''

@allowed(['User', 'Group', 'ServicePrincipal'])
param principalType string = 'User'

@description('E-mail address for alerts; none if empty.')
param alertEmail string = ''

var suffix = toLower(uniqueString(subscription().id, environmentName, location))
var tags = { 'azd-env-name': environmentName, application: 'usher' }

resource group 'Microsoft.Resources/resourceGroups@2025-04-01' = {
  name: 'rg-usher-${environmentName}'
  location: location
  tags: tags
}

module monitoring 'modules/monitoring.bicep' = {
  name: 'monitoring'
  scope: group
  params: {
    location: location
    suffix: suffix
    tags: tags
    alertEmail: alertEmail
  }
}

module storage 'modules/storage.bicep' = {
  name: 'storage'
  scope: group
  params: {
    location: location
    suffix: suffix
    tags: tags
    zoneRedundant: zoneRedundant
    dataRedundancy: dataRedundancy
    principalId: principalId
    principalType: principalType
  }
}

module webhook 'modules/webhook.bicep' = {
  name: 'webhook'
  scope: group
  params: {
    location: location
    suffix: suffix
    tags: tags
    hostAccount: storage.outputs.hostAccount
    dataAccount: storage.outputs.dataAccount
    insights: monitoring.outputs.insights
    instanceMemoryMB: instanceMemoryMB
    alwaysReadyInstances: alwaysReadyInstances
    maximumInstances: maximumInstances
    perInstanceConcurrency: perInstanceConcurrency
    zoneRedundant: zoneRedundant
    updateStrategy: updateStrategy
    rulesFrom: rulesFrom
    lookups: lookups
    keepRecords: keepRecords
    restrictToDps: restrictToDps
    allowedAddresses: empty(allowedAddresses) ? [] : map(split(allowedAddresses, ','), (address) => trim(address))
  }
}

module provisioning 'modules/provisioning.bicep' = if (createProvisioningService) {
  name: 'provisioning'
  scope: group
  params: {
    location: location
    suffix: suffix
    tags: tags
    hubs: sampleHubs
    disableLocalAuth: disableLocalAuth
    principalId: principalId
    principalType: principalType
  }
}

output AZURE_RESOURCE_GROUP string = group.name
output USHER_WEBHOOK_URL string = webhook.outputs.url
output USHER_FUNCTION_APP string = webhook.outputs.name
output USHER_DATA_ACCOUNT string = storage.outputs.dataAccount
output USHER_DPS_HOST string = createProvisioningService ? provisioning!.outputs.host : ''
