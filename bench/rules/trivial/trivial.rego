# METADATA
# title: The least that a rule can say
# custom:
#   enrollment_groups: [bench-trivial]
package allocation.trivial

hub := input.linkedHubs[0]
