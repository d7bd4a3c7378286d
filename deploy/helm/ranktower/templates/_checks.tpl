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
{{- if regexMatch "^[a-z]+://[^/@]*:[^/@]*@" .url -}}
{{- fail "redis.url: holds a password; that belongs into the secret of redis.existingSecret" -}}
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
{{- with .Values.offline -}}
{{- if and .enabled .deltas.enabled (not .data.existingClaim) -}}
{{- fail "offline.data.existingClaim: not set, and offline.deltas.enabled is true" -}}
{{- end -}}
{{- if and .enabled .deltas.enabled (not (or .deltas.items .deltas.users)) -}}
{{- fail "offline.deltas: neither items nor users" -}}
{{- end -}}
{{- end -}}
{{- end -}}
