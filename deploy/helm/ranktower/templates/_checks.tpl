{{/* What a schema cannot say, for it is about several values at once. */}}
{{- define "ranktower.check" -}}
{{- range $key, $image := dict "image" .Values.image "offline.image" .Values.offline.image -}}
{{- if and (eq $image.tag "latest") (not $image.digest) -}}
{{- fail (printf "%s.tag=latest: nobody could say what runs, or roll back to it; name a version" $key) -}}
{{- end -}}
{{- end -}}
{{- with .Values.redis -}}
{{- if and (include "ranktower.needsRedis" $) (not .url) (not .urlKey) -}}
{{- fail "redis.url: not set, but config.store or config.release.pointer says redis (or set redis.existingSecret and redis.urlKey)" -}}
{{- end -}}
{{- /* Not in the schema, which would print it. */ -}}
{{- if regexMatch "(?i)://.*:.*@|[?&]password=" .url -}}
{{- fail "redis.url: holds a password; that belongs into the secret of redis.existingSecret" -}}
{{- end -}}
{{- range $key, $variables := dict "extraEnv" $.Values.extraEnv "offline.extraEnv" $.Values.offline.extraEnv -}}
{{- range $variables -}}
{{- if and .value (has .name (list "RANKTOWER_AUTH__API_KEY" "RANKTOWER_STORE__REDIS_URL")) -}}
{{- fail (printf "%s: %s has its value here; a secret belongs into a Secret, to which valueFrom points" $key .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .urlKey (not .existingSecret) -}}
{{- fail (printf "redis.urlKey=%q: of which secret? Set redis.existingSecret" .urlKey) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.auth.required (not .Values.auth.existingSecret) -}}
{{- fail "auth.existingSecret: not set, and auth.required is true" -}}
{{- end -}}
{{- with .Values.autoscaling -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas=%d: above autoscaling.maxReplicas=%d" (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "ingress.host: not set, and ingress.enabled is true" -}}
{{- end -}}
{{- if and .Values.gateway.enabled (not .Values.gateway.parentRefs) -}}
{{- fail "gateway.parentRefs: empty, and gateway.enabled is true" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.ingressFrom) -}}
{{- range $key := list "ingress" "gateway" "serviceMonitor" -}}
{{- if (index $.Values $key).enabled -}}
{{- fail (printf "networkPolicy.ingressFrom: empty, and %s.enabled is true; name the peers that come by it" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $label, $_ := .Values.podLabels -}}
{{- if hasKey $.Values.commonLabels $label -}}
{{- fail (printf "podLabels: %s stands in commonLabels too" $label) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.registry.readOnly .Values.offline.enabled -}}
{{- fail "registry.readOnly: true, and offline.enabled is true: its jobs write releases there" -}}
{{- end -}}
{{- with .Values.offline -}}
{{- if and .enabled .deltas.enabled (not .data.existingClaim) -}}
{{- fail "offline.data.existingClaim: not set, and offline.deltas.enabled is true" -}}
{{- end -}}
{{- if and .enabled .deltas.enabled (not (or .deltas.items .deltas.users)) -}}
{{- fail "offline.deltas: neither items nor users" -}}
{{- end -}}
{{- end -}}
{{- end -}}
